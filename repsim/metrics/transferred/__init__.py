"""Transferred Discrepancy: linear heads of both layers asked about rows that they were not fitted on."""
