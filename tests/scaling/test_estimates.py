"""From times of rounds to a document: known truth in, the same truth out."""

import json

import numpy as np
import pytest
from made_study import BUCKETS, MODEL, compute, made_design, made_measurement

from esam_tune.scaling.checks import leave_one_out
from esam_tune.scaling.communication import Model, Network
from esam_tune.scaling.document import findings, method_documents, model_document
from esam_tune.scaling.estimates import estimator_for
from esam_tune.scaling.records import Measurement, Plan, Traffic
from esam_tune.scaling.timings import Timed, Timings

NETWORK = Network(latency=5e-6, seconds_per_byte=1e-11)


def quantities(made, measurement, predict=(1, 2, 1024), networks=None):
    estimator = estimator_for(made, measurement, predict, networks or {})
    return estimator.quantities(Timings(measurement.samples).medians())


@pytest.mark.parametrize("mode", ["strong", "weak"])
def test_parameters_and_rates_of_exact_times(mode):
    made = made_design(mode=mode)
    found = quantities(made, made_measurement(made))
    assert found["model", "latency_seconds"] == pytest.approx(1e-4, rel=1e-6)
    assert found["model", "seconds_per_byte"] == pytest.approx(1e-9, rel=1e-6)
    assert found["model", "overlap"] == pytest.approx(0.6, abs=1e-6)
    assert found["model", "spread"] == pytest.approx(0.02, abs=1e-6)
    for method in made.methods:
        at = {key: found["measured", method, 4, key] for key in ("step_seconds", "speed_up")}
        images = found["measured", method, 4, "images_per_second"]
        assert images == pytest.approx(made.batch_size(4) / at["step_seconds"])
        one = made.batch_size(1) / compute(method, made.rows(1))
        assert at["speed_up"] == pytest.approx(images / one)
        assert found["measured", method, 4, "efficiency"] == pytest.approx(at["speed_up"] / 4)


def test_speed_up_of_weak_scaling_counts_the_images_and_not_the_steps():
    made = made_design((1, 2), "weak")
    free = Model(network=Network(latency=0.0, seconds_per_byte=0.0), overlap=1.0, spread=0.0)
    samples = made_measurement(made, model=free)
    # No all-reduce takes no time at all.
    for index, sample in enumerate(samples.samples):
        if sample.kind == "all_reduce":
            samples.samples[index] = type(sample)(**{**vars(sample), "seconds": 1e-12})
    found = quantities(made, samples)
    assert found["measured", "sgd", 2, "speed_up"] == pytest.approx(2.0)
    assert found["measured", "sgd", 2, "efficiency"] == pytest.approx(1.0)


def test_predictions_of_unmeasured_counts_are_the_truth():
    made = made_design(mode="strong")
    found = quantities(made, made_measurement(made), (16, 128))
    for workers in (16, 128):
        rows = made.rows(workers)
        share = compute("chosen", rows) / compute("chosen", 128)
        sent = Traffic(
            message_bytes=BUCKETS.message_bytes,
            lead_seconds=[lead * share for lead in BUCKETS.lead_seconds],
        )
        true = MODEL.step(compute("chosen", rows), sent, workers)
        step = found["predicted", "fitted", "chosen", workers, "step_seconds"]
        assert step == pytest.approx(true, rel=1e-5)


def test_strong_scaling_ends_where_a_worker_has_no_row():
    made = made_design(mode="strong")
    found = quantities(made, made_measurement(made), [2**n for n in range(11)])
    assert max(path[3] for path in found if path[0] == "predicted") == 128


def test_a_described_network_has_no_crowded_machines():
    made = made_design((1, 2), "weak")
    found = quantities(made, made_measurement(made, crowding=1.5), (2, 64), {"described": NETWORK})
    assert found["crowding", 2] == pytest.approx(1.5)
    alone = compute("sgd", 128)
    fitted = found["predicted", "fitted", "sgd", 64, "step_seconds"]
    described = found["predicted", "described", "sgd", 64, "step_seconds"]
    assert fitted > 1.5 * alone
    assert alone < described < 1.2 * alone


def test_the_setting_with_more_compute_a_byte_is_more_efficient_than_sgd():
    made = made_design(mode="weak")
    found = quantities(made, made_measurement(made), (2, 16, 1024), {"described": NETWORK})
    for network in ("fitted", "described"):
        for workers in (2, 16, 1024):
            at = ("predicted", network)
            assert (
                found[*at, "chosen", workers, "efficiency"]
                > found[*at, "sgd", workers, "efficiency"]
            )
            assert (
                found[*at, "chosen", workers, "images_per_second"]
                < found[*at, "sgd", workers, "images_per_second"]
            )


def test_intervals_hold_the_value_and_are_points_without_noise():
    made = made_design((1, 2), "weak")
    exact = made_measurement(made)
    estimator = estimator_for(made, exact, (64,), {})
    for estimate in estimator.estimates(Timings(exact.samples), 0, 20).values():
        assert estimate.low == pytest.approx(estimate.high, rel=1e-6, nan_ok=True)
    noisy = made_measurement(made, rounds=9, noise=0.05)
    found = estimator.estimates(Timings(noisy.samples), 0, 200)
    assert found == estimator.estimates(Timings(noisy.samples), 0, 200)
    spans = {
        path: (estimate.low, estimate.value, estimate.high) for path, estimate in found.items()
    }
    assert all(low <= value <= high for low, value, high in spans.values())
    low, value, high = spans["measured", "sgd", 2, "speed_up"]
    assert 0.005 < (high - low) / value < 0.3


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    made = made_design((1, 2), "weak")
    true = 2 * compute("sgd", 128) / MODEL.step(compute("sgd", 128), BUCKETS, 2)
    studies, rounds = 25, 10
    measurement = made_measurement(made, rounds=studies * rounds, noise=0.05)
    estimator = estimator_for(made, measurement, (), {})
    hits = []
    for study in range(studies):
        own = [s for s in measurement.samples if s.round // rounds == study]
        found = estimator.estimates(Timings(own), study, 50)["measured", "sgd", 2, "speed_up"]
        hits.append(found.low <= true <= found.high)
    # A percentile bootstrap of a median over ten rounds is a little narrow; far off would be wrong.
    assert np.mean(hits) > 0.8


def test_leaving_a_count_out_of_exact_times_predicts_it():
    made = made_design((1, 2, 4), "weak")
    measurement = made_measurement(made)
    estimator = estimator_for(made, measurement, (), {})
    checks = leave_one_out(estimator, made, Timings(measurement.samples).medians())
    assert [check.workers for check in checks] == [2, 4]
    for check in checks:
        assert check.reason is None
        assert check.errors.keys() == made.methods.keys()
        assert all(abs(error) < 1e-4 for error in check.errors.values())


def test_leaving_a_count_out_shows_what_the_model_does_not_know():
    made = made_design((1, 2, 4), "weak")
    measurement = made_measurement(made)
    # Four workers take twice as long as the model would have them.
    late = [
        type(s)(**{**vars(s), "seconds": 2 * s.seconds}) if s.workers == 4 else s
        for s in measurement.samples
    ]
    estimator = estimator_for(made, measurement, (), {})
    checks = leave_one_out(estimator, made, Timings(late).medians())
    assert checks[1].errors["sgd"] == pytest.approx(-0.5, abs=0.01)


def test_with_one_count_above_one_leaving_it_out_is_refused():
    made = made_design((1, 2), "weak")
    measurement = made_measurement(made)
    estimator = estimator_for(made, measurement, (), {})
    (check,) = leave_one_out(estimator, made, Timings(measurement.samples).medians())
    assert check.errors == {}
    assert "measure a third count" in check.reason


def test_what_the_measurements_do_not_tell_is_said():
    made = made_design((1, 2), "weak")
    single = Traffic(message_bytes=(1_000_000,), lead_seconds=(0.0,))
    flat = Model(network=Network(latency=1e-3, seconds_per_byte=0.0), overlap=None, spread=0.0)
    measurement = made_measurement(made, model=flat, traffic=single)
    found = estimator_for(made, measurement, (2,), {}).estimates(
        Timings(measurement.samples), 0, 20
    )
    document = model_document(found, [], None, made)
    assert [line.partition(":")[0] for line in document["not_told"]] == [
        "overlap",
        "bandwidth",
        "growth with the count",
    ]
    assert document["overlap"]["value"] is None
    assert document["bandwidth_bytes_per_second"]["value"] is None
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize(("mode", "said"), [("strong", ["steps of few rows"]), ("weak", [])])
def test_predictions_for_fewer_rows_than_were_timed_are_named(mode, said):
    made = made_design((1, 2, 4), mode)
    measurement = made_measurement(made)
    for predict, expected in (((2, 4), []), ((4, 8), said)):
        estimator = estimator_for(made, measurement, predict, {})
        found = estimator.estimates(Timings(measurement.samples), 0, 20)
        document = model_document(found, [], None, made)
        assert [line.partition(":")[0] for line in document["not_told"]] == expected


def test_all_is_told_by_three_counts_and_several_buckets():
    made = made_design((1, 2, 4), "weak")
    measurement = made_measurement(made)
    found = estimator_for(made, measurement, (2,), {}).estimates(
        Timings(measurement.samples), 0, 20
    )
    document = model_document(found, [], NETWORK, made)
    assert document["not_told"] == []
    assert document["bandwidth_bytes_per_second"]["value"] == pytest.approx(1e9, rel=1e-5)
    assert document["described_network"]["latency_seconds"] == 5e-6


def test_findings_state_compute_a_byte_efficiency_and_throughput():
    made = made_design((1, 2, 4), "weak")
    measurement = made_measurement(made)
    found = estimator_for(made, measurement, (1024,), {}).estimates(
        Timings(measurement.samples), 0, 20
    )
    labels = {"sgd": "SGD", "sam": "SAM", "chosen": "ESAM"}
    methods = method_documents(made, labels, measurement.traffic, found, {("sgd", 2): 0.9})
    ratio = compute("chosen", 128) / compute("sgd", 128)
    told = findings(made, methods)
    assert f"sends 18 MB, the same as SGD's, and computes for {ratio:.2f} times" in told[0]
    efficiency = found["measured", "chosen", 4, "efficiency"].value
    assert f"measured on 4 workers: {efficiency:.3g} against SGD's" in told[1]
    assert "predicted for 1,024 workers on the fitted network" in told[2]
    assert methods[0]["points"][1]["val_accuracy"] == 0.9
    assert methods[0]["points"][0]["all_reduce_bytes"] == 0
    assert methods[2]["points"][2]["all_reduce_bytes"] == sum(BUCKETS.message_bytes)
    assert methods[2]["points"][2]["scaled"]["effective.lr"] == pytest.approx(0.2)


def test_plans_and_measurements_travel_as_json():
    made = made_design((1, 2), "weak")
    plan = Plan(cells=made.cells(), rounds=3, steps=2, seed=1)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    measurement = made_measurement(made)
    again = Measurement.from_dict(json.loads(json.dumps(measurement.to_dict())))
    assert Timings(again.samples).medians() == Timings(measurement.samples).medians()
    assert list(again.traffic["sgd"].message_bytes) == list(BUCKETS.message_bytes)


def test_medians_over_all_rounds_and_over_some():
    made = made_design((1, 2), "weak")
    timings = Timings(made_measurement(made, rounds=3, noise=0.1).samples)
    key = Timed("step", 1, "sgd", 128)
    each = [timings.medians([number])[key] for number in range(3)]
    assert timings.rounds == 3
    assert timings.medians()[key] == sorted(each)[1]
    assert timings.medians([0, 0, 1])[key] == each[0]
