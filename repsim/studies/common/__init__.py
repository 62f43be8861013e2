"""What studies share: groups of networks, estimates over whole networks, claims and findings."""
