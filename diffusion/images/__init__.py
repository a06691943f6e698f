"""Images of 28 x 28 pixels: MNIST, three families of models, and what they are measured by."""
