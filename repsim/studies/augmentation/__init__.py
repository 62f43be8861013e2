"""Augmentation strategies judged by the representations that they lead to."""

from repsim.studies.augmentation.judging import Judgement, judge
from repsim.studies.augmentation.networks import networks_of, tasks_of
from repsim.studies.augmentation.plan import Plan, read_plan

__all__ = ["Judgement", "Plan", "judge", "networks_of", "read_plan", "tasks_of"]
