"""The task that most tests of the core use."""

import pytest

from rldg_core.task import Task
from rldg_core.testing import make_task


@pytest.fixture
def task() -> Task:
    return make_task()
