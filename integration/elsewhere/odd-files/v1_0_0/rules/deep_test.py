"""A test below: it stays out of the image, too."""


def test_nothing() -> None:
    pass
