"""The scorecard: the versioned, typed result of an evaluation. Everything that is shown or gated is read from it.

No torch here: a scorecard is loaded, compared and shown on machines that never run a model.
"""

from __future__ import annotations

from robustbench_lite.results.scorecard.about import NO_ANSWER as NO_ANSWER
from robustbench_lite.results.scorecard.about import DataInfo as DataInfo
from robustbench_lite.results.scorecard.about import Environment as Environment
from robustbench_lite.results.scorecard.about import TargetInfo as TargetInfo
from robustbench_lite.results.scorecard.attacks import AttackResult as AttackResult
from robustbench_lite.results.scorecard.attacks import Skipped as Skipped
from robustbench_lite.results.scorecard.attacks import ThreatResult as ThreatResult
from robustbench_lite.results.scorecard.attacks import Trace as Trace
from robustbench_lite.results.scorecard.card import Scorecard as Scorecard
from robustbench_lite.results.scorecard.contents import SCHEMA_VERSION as SCHEMA_VERSION
from robustbench_lite.results.scorecard.curve import Curve as Curve
from robustbench_lite.results.scorecard.findings import CHANGED as CHANGED
from robustbench_lite.results.scorecard.findings import DENIALS as DENIALS
from robustbench_lite.results.scorecard.findings import IN_FLOAT64 as IN_FLOAT64
from robustbench_lite.results.scorecard.findings import OUTSIDE as OUTSIDE
from robustbench_lite.results.scorecard.findings import Adaptation as Adaptation
from robustbench_lite.results.scorecard.findings import Audit as Audit
from robustbench_lite.results.scorecard.findings import Countermeasure as Countermeasure
from robustbench_lite.results.scorecard.findings import Denied as Denied
from robustbench_lite.results.scorecard.findings import Finding as Finding
from robustbench_lite.results.scorecard.findings import Plot as Plot
from robustbench_lite.results.scorecard.gate import Gate as Gate
from robustbench_lite.results.scorecard.measured import Measured as Measured
from robustbench_lite.results.scorecard.outcomes import Break as Break
from robustbench_lite.results.scorecard.outcomes import ClassResult as ClassResult
from robustbench_lite.results.scorecard.outcomes import Example as Example
from robustbench_lite.results.scorecard.outcomes import Nearest as Nearest
from robustbench_lite.results.scorecard.outcomes import Outcome as Outcome
from robustbench_lite.results.scorecard.values import Interval as Interval
from robustbench_lite.results.scorecard.values import Severity as Severity
from robustbench_lite.results.scorecard.values import Verdict as Verdict
from robustbench_lite.results.scorecard.values import median as median
from robustbench_lite.results.scorecard.verdict import verdict_of as verdict_of
from robustbench_lite.results.scorecard.witnesses import Witnesses as Witnesses
