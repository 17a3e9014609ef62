import pytest

from edgeprune.report import figures


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (812.4, "us", "812 µs"),
        (9.314, "us", "9.31 µs"),
        (1_240.0, "us", "1.24 ms"),
        (2_500_000.0, "us", "2.50 s"),
        (640.0, "instructions", "640 instructions"),
        (3_104_000.0, "instructions", "3.10 M instructions"),
        (0.0, "us", "0 µs"),
    ],
)
def test_cost_has_a_fitting_unit(value, unit, text):
    assert figures.cost(value, unit) == text


def test_instructions_are_never_shown_as_time():
    for value in (1.0, 1e3, 1e6, 1e9, 1e12):
        assert figures.cost(value, "instructions").endswith("instructions")


def test_interval_decides_the_digits():
    assert figures.cost_interval(812.41, 811.9, 812.9, "us") == "812.41 µs [811.90, 812.90]"
    assert figures.cost_interval(812.41, 790.0, 840.0, "us") == "812 µs [790, 840]"
    assert figures.cost_interval(1240.0, 1200.0, 1300.0, "us") == "1.240 ms [1.200, 1.300]"


def test_figure_without_spread_is_exact():
    assert figures.cost_interval(1_204_331, 1_204_331, 1_204_331, "instructions") == (
        "1,204,331 instructions, exact"
    )
    assert figures.doubt(2.0, 2.0) == "exact"


def test_doubt_names_confidence_and_both_ends():
    assert figures.doubt(2.019, 2.036, 0.95) == "95 % interval 2.019 to 2.036"
    assert figures.doubt(0.7, 1.4, 0.9) == "90 % interval 0.70 to 1.40"
    assert figures.doubt(2.0190, 2.0204, 0.95) == "95 % interval 2.0190 to 2.0204"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (1023, "1023 B"), (118_282, "115.5 KiB"), (2**21, "2.0 MiB")]
)
def test_size(value, text):
    assert figures.size(value) == text


def test_size_that_nobody_reported():
    assert figures.size(None) == "not reported"


@pytest.mark.parametrize(
    ("value", "text"), [(999_999, "999,999"), (1_000_000, "1.00 M"), (39_100_416, "39.1 M")]
)
def test_count(value, text):
    assert figures.count(value) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.5, "50 %"), (0.083, "8.3 %"), (0.0, "0 %"), (0.375, "38 %")]
)
def test_percent(share, text):
    assert figures.percent(share) == text


def test_only_estimates_are_denied_the_word_speed_up():
    assert figures.ratio_name("measured") == figures.ratio_name("emulated") == "speed-up"
    assert figures.ratio_name("estimated") == "estimated ratio"


def test_a_measured_cost_without_spread_is_not_called_certain():
    assert figures.cost_interval(0.517, 0.517, 0.517, "us") == "0.517 µs, not resolved"
    assert figures.cost_interval(0.517, 0.517, 0.517, "us", "estimated") == "0.517 µs, by formula"
