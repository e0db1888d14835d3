"""What is found to be wrong with devices, from their own past alone, and how it is told to who may know."""
