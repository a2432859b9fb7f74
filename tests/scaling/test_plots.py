"""What the pictures of a scaling study show."""

import pytest
from made_study import made_design, made_measurement
from matplotlib.backends.backend_agg import FigureCanvasAgg

from esam_tune.report.style import save_figure
from esam_tune.scaling.communication import Network
from esam_tune.scaling.document import method_documents, model_document
from esam_tune.scaling.estimates import estimator_for
from esam_tune.scaling.plots import measured_figure, predicted_figure
from esam_tune.scaling.timings import Timings


@pytest.fixture(scope="module")
def document():
    made = made_design((1, 2, 4), "weak")
    network = Network(latency=5e-6, seconds_per_byte=8e-11)
    measurement = made_measurement(made, noise=0.02, rounds=7)
    doublings = [2**n for n in range(11)]
    estimator = estimator_for(made, measurement, doublings, {"described": network})
    found = estimator.estimates(Timings(measurement.samples), 0, 100)
    labels = {
        "sgd": "SGD",
        "sam": "SAM rho=0.10",
        "chosen": "ESAM $beta$=0.50 gamma=0.50 rho=0.10 selection=first_order",
    }
    return {
        "mode": "weak",
        "workers": [1, 2, 4],
        "settings": made.methods["chosen"].to_dict(),
        "methods": method_documents(made, labels, measurement.traffic, found, {}),
        "model": model_document(found, [], network, made),
    }


def test_measured_points_lie_where_the_document_has_them(document):
    figure = measured_figure(document)
    for panel, key in zip(figure.axes, ("speed_up", "efficiency"), strict=True):
        assert len(panel.containers) == 3
        for drawn, method in zip(panel.containers, document["methods"], strict=True):
            line, _, (bars,) = drawn.lines
            expected = [point[key]["value"] for point in method["points"]]
            assert line.get_ydata() == pytest.approx(expected)
            # Set apart a little, so that one interval does not hide another.
            assert line.get_xdata() == pytest.approx([1, 2, 4], rel=0.06)
            ends = [(path.vertices[0][1], path.vertices[1][1]) for path in bars.get_paths()]
            assert ends == [
                pytest.approx((point[key]["low"], point[key]["high"])) for point in method["points"]
            ]
    assert figure.axes[0].get_xscale() == "log"
    assert figure.axes[0].get_xaxis().get_transform().base == 2


def test_the_ideal_line_is_there(document):
    speed_up, efficiency = measured_figure(document).axes
    assert list(speed_up.lines[0].get_ydata()) == [1, 2, 4]
    assert list(efficiency.lines[0].get_ydata()) == [1, 1, 1]


@pytest.mark.parametrize("network", ["fitted", "described"])
def test_predictions_reach_1024_with_bands(document, network):
    figure = predicted_figure(document, network)
    for panel, key in zip(figure.axes, ("efficiency", "images_per_second"), strict=True):
        curves = [line for line in panel.lines if len(line.get_xdata()) == 11][-3:]
        for curve, band, method in zip(curves, panel.collections, document["methods"], strict=True):
            points = method["predictions"][network]
            assert list(curve.get_xdata()) == [2**n for n in range(11)]
            assert curve.get_ydata() == pytest.approx([point[key]["value"] for point in points])
            heights = band.get_paths()[0].vertices[:, 1]
            assert heights.min() == pytest.approx(min(point[key]["low"] for point in points))
            assert heights.max() == pytest.approx(max(point[key]["high"] for point in points))


def test_methods_differ_without_colour(document):
    figure = predicted_figure(document, "described")
    curves = [line for line in figure.axes[1].lines if len(line.get_xdata()) == 11]
    # matplotlib keeps a line's dashes, unlike its colour and marker, to itself.
    assert len({str(curve._unscaled_dash_pattern) for curve in curves}) == 3
    measured = measured_figure(document).axes[0].containers
    assert len({drawn.lines[0].get_marker() for drawn in measured}) == 3


def texts_of(figure):
    """The texts that a figure shows; matplotlib keeps labels of ticks beyond the axes, too."""
    yield from [*figure.texts, *figure.legends[0].get_texts()]
    for panel in figure.axes:
        yield from (panel.xaxis.label, panel._left_title)
        for axis in (panel.xaxis, panel.yaxis):
            low, high = axis.get_view_interval()
            yield from [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]


@pytest.mark.parametrize("picture", ["measured", "fitted", "described"])
def test_no_text_covers_another_or_leaves_the_picture(document, picture):
    measured = picture == "measured"
    figure = measured_figure(document) if measured else predicted_figure(document, picture)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    shown = [text for text in texts_of(figure) if text.get_text()]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in shown]
    assert len(boxes) > 15
    width, height = figure.bbox.size
    for index, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[index + 1 :]), shown[index]


def test_a_picture_is_written_the_same_each_time(document, tmp_path):
    for name in ("one.png", "two.png"):
        save_figure(measured_figure(document), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
