"""Every architecture of transformers' auto classes, tiny and random, through a whole run."""
