"""Rows as points: distances between samples and nearest neighbours."""
