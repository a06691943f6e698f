"""What a study's file does not hold itself: parts that several share, and long parts of one."""
