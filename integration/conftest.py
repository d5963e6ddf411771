"""Gives the assertions of the shared cases pytest's explanations."""

import pytest

pytest.register_assert_rewrite("integration.end_to_end")
