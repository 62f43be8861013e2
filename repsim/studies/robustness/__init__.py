"""Questions asked of groups of standard and robust networks; `repsim.studies.robustness_study` asks all of them."""
