"""Rows of metrics survive a crash and do not survive their own loss."""

from jaxseq.training.metrics import MetricsLog, read_metrics


def test_rows_come_back_exactly(tmp_path):
    values = {"loss": 0.1 + 0.2, "rate": 1e-30}
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, "train", values)
        (board,) = (tmp_path / "tensorboard").iterdir()
        assert b"train/loss" in board.read_bytes(), "TensorBoard sees it at once"
    assert read_metrics(tmp_path) == [{"step": 1, "split": "train"} | values]


def test_a_resume_drops_the_rows_of_steps_that_were_lost(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        for step in range(1, 8):
            log.write(step, "train", {"loss": float(step)})
    with MetricsLog(tmp_path, 5) as log:
        log.write(6, "train", {"loss": 60.0})
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 60]


def test_a_line_that_a_crash_cut_short_is_passed_over(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, "train", {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "spl')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]


def test_no_file_is_no_rows(tmp_path):
    assert read_metrics(tmp_path) == []
