"""Augmentation strategies judged by the representations that they lead to."""

from repsim.studies.augmentation.judging import Judgement, judge
from repsim.studies.augmentation.plan import Plan, read_plan

__all__ = ["Judgement", "Plan", "judge", "read_plan"]
