"""Gives the assertions of shared modules pytest's explanations, and the runtime tests their choice of transport."""

import pytest

pytest.register_assert_rewrite("integration.end_to_end", "integration.runtime_stack")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--transport", choices=("native", "grpcio"), default="native", help="which server the engine runs")


@pytest.fixture(scope="session")
def transport(request: pytest.FixtureRequest) -> str:
    chosen: str = request.config.getoption("--transport")
    return chosen
