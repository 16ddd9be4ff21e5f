"""Differences as a picture: every one has a mark that says what may be said of it."""

import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest

from experiments.reporting import forest

SVG = "{http://www.w3.org/2000/svg}"


def line(method, verdict, mean, half, against="LoRA", column="to 8"):
    return {
        "column": column,
        "method": method,
        "against": against,
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "margin": 0.005,
        "verdict": verdict,
    }


@pytest.fixture
def frame():
    return pd.DataFrame(
        [
            line("svd", "lower", -0.06, 0.01),
            line("random < chance", "not decided", 0.01, 0.4),
            line("kfac", "level", 0.001, 0.002),
            line("printed", "higher", 0.05, 0.01, column="to 16"),
            line("svd", "lower", -0.02, 0.001, against="random"),
        ]
    )


def drawn(frame):
    return ElementTree.fromstring(forest.svg(frame, "A & B", {"to 8": "nats"}))


def test_every_difference_has_a_mark_and_is_said_in_figures(frame):
    picture = drawn(frame)
    said = [mark.find(f"{SVG}title").text for mark in picture.iter(f"{SVG}g")]
    assert len(said) == len(frame)
    assert "svd less LoRA, to 8: -0.0600 (-0.0700 to -0.0500), lower" in said
    assert picture.find(f"{SVG}title").text == "Differences between rows: A & B"
    assert "5 differences of losses: 2 lower, 1 higher, 1 level, 1 not decided" in (
        picture.find(f"{SVG}desc").text
    )


def test_the_form_of_a_mark_says_what_its_colour_does(frame):
    marks = {
        m.find(f"{SVG}title").text.rpartition(", ")[2]: m for m in drawn(frame).iter(f"{SVG}g")
    }
    assert marks["level"].find(f"{SVG}rect") is not None
    assert marks["not decided"].find(f"{SVG}circle").get("class") == "hollow"
    assert marks["lower"].find(f"{SVG}circle").get("class") is None
    assert len({mark.get("fill") for mark in marks.values()}) == 4
    # Which side of zero it is on.
    x = {
        kind: float(marks[kind].find(f"{SVG}circle").get("cx")) for kind in ("lower", "not decided")
    }
    zero = float(next(drawn(frame).iter(f"{SVG}line")).get("x1"))
    assert x["lower"] < zero < x["not decided"]


def test_what_goes_on_beyond_the_panel_has_an_arrow_on_that_side(frame):
    marks = {m.find(f"{SVG}title").text: m for m in drawn(frame).iter(f"{SVG}g")}
    arrows = {said: len(mark.findall(f"{SVG}polygon")) for said, mark in marks.items()}
    assert sorted(arrows.values()) == [0, 0, 0, 0, 2]
    (wide,) = (said for said, count in arrows.items() if count)
    assert wide.startswith("random < chance")
    bar = marks[wide].find(f"{SVG}line")
    assert float(bar.get("x2")) - float(bar.get("x1")) == pytest.approx(forest.PANEL)


def test_a_mean_beyond_the_panel_is_written_and_has_no_mark_at_its_edge(frame):
    many = pd.concat([*[frame] * 4, pd.DataFrame([line("far", "higher", 0.9, 0.01)])])
    (far,) = (m for m in drawn(many).iter(f"{SVG}g") if "far less" in m.find(f"{SVG}title").text)
    assert far.find(f"{SVG}circle") is None
    assert far.find(f"{SVG}text").text == "+0.900"
    assert len(far.findall(f"{SVG}polygon")) == 1


def test_one_seed_has_a_mean_and_no_interval(frame):
    frame.loc[0, ["low", "high"]] = float("nan")
    (mark,) = (
        m
        for m in drawn(frame).iter(f"{SVG}g")
        if m.find(f"{SVG}title").text == "svd less LoRA, to 8: -0.0600, lower"
    )
    assert mark.find(f"{SVG}line") is None


def test_rows_with_the_same_rival_stand_below_it(frame):
    texts = [t.text for t in drawn(frame).iter(f"{SVG}text")]
    assert texts.index("less LoRA:") < texts.index("printed") < texts.index("less random:")
    assert texts.count("svd") == 2
    assert "nats" in texts
