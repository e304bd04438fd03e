"""What a retraining cycle learns from: every setting of ``[retrain.collect]``, each declared once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from cdmodel.setting_groups import FORBID_UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectSettings:
    """Which labeled videos become examples, and how much each counts."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    corrections: str | None = None
    """CSV or Parquet with `label` and `uri` or `video_id`, by hand; optionally `by`, `at`, `note`. They beat every model."""
    corrections_sql: str | None = None
    """The same columns by a query over the views of OUT, such as a join with a table of one's own."""
    base: str | None = None
    """Labeled data set (as of `cdlabel train`) that is always learned from too, so that what it shows is not forgotten."""
    escalated: bool = True
    """Learn also from videos that the teacher saw only in part."""
    min_confidence: float = 0.8
    """Least `confidence` of those; the audited ones carry the teacher's full answer and need none."""
    max_age_days: float | None = None
    """Leave out what was labeled before that."""
    max_videos: int = 2000
    """Most examples of a cycle beside those of `base`. Of more a seeded share is kept, of every cell of class and confidence."""
    max_weight: float = 10.0
    """Most that one example may count. An audited video that was not escalated stands for 1 / `audit.share` others."""
    class_balance: float = 0.5
    """0 leaves the classes as frequent as they are, 1 makes them equally frequent in training, by weight."""
    new_labels: tuple[str, ...] = ()
    """Labels that corrections may use though the bundle in production does not know them."""
    seed: int = 0
    """Of what is kept where there are too many."""

    def __post_init__(self) -> None:
        for name in ("min_confidence", "class_balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.max_age_days is not None and not 0 < self.max_age_days < math.inf:
            raise ValueError(f"max_age_days must be above 0, got {self.max_age_days}")
        if self.max_videos < 2:
            raise ValueError(f"max_videos must be at least 2, got {self.max_videos}")
        if not 1 <= self.max_weight < math.inf:
            raise ValueError(f"max_weight must be at least 1, got {self.max_weight}")
