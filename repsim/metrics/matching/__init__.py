"""Units matched one to one, or shared out: neurons are reordered, never mixed."""
