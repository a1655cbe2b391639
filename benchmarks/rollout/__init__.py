"""One report about a bundle on the machine it stands on: how fast, how accurate, and whether it may be deployed."""
