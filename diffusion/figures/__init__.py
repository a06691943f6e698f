"""Every figure. Functions take arrays and numbers, know no model, and return a Figure."""
