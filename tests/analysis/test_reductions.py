"""Reductions against floors, on made-up sweeps whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vtexp.analysis.reductions import against_floors, reduction_findings
from vtexp.analysis.rows import ComparedRun
from vtexp.analysis.samples import SampleColumns
