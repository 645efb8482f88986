"""What a person sees of a run, line by line."""

from jaxseq.training.progress import ProgressDisplay

ROW = {"tokens_per_second": 12345.6, "step_seconds": 0.5, "mfu": 0.4321}


def test_a_line_says_speed_and_time_left(capsys):
    with ProgressDisplay(100, 1000) as display:
        display.row(110, 3.0, {"memory_bytes": 1.0})  # of the first step
        display.row(200, 2.5, ROW)
        display.row(400, 2.0, {**ROW, "step_seconds": 1.0, "mfu": 0.5})
        display.row(1000, 1.5, {"tokens_per_second": 1.0, "step_seconds": 1.0})
    assert capsys.readouterr().err.splitlines() == [
        "step  110/1000  loss 3.0000",
        "step  200/1000  loss 2.5000  12,346 tokens/s  MFU 43.2%  6:40 left",
        # 90 steps of half a second and 200 of one.
        "step  400/1000  loss 2.0000  12,346 tokens/s  MFU 50.0%  8:27 left",
        "step 1000/1000  loss 1.5000  1 tokens/s  0:00 left",
    ]
