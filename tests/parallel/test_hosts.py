"""How processes find each other, agree, share batches and checkpoints, and miss one another.

What two processes do is in tests/hosts_worker.py; they train in training/test_two_processes.py.
"""

import signal
import socket
from pathlib import Path

import jax
import numpy as np
import pytest
from hosts_worker import state
from processes import ends, start_processes

from jaxseq.errors import UserError
from jaxseq.parallel import hosts
from jaxseq.parallel.host_start import Place, find_place
from jaxseq.parallel.mesh import MeshConfig
from jaxseq.training.checkpoints import Checkpoints

WORKER = Path(__file__).parent.parent / "hosts_worker.py"

SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_NODELIST": "node[007-009],other",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
OPEN_MPI_5 = {  # whose address only mpi4py tells
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}
OPEN_MPI = OPEN_MPI_5 | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
OURS = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "0",
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*SLURM, *OPEN_MPI, *OURS, "JAX_LOCAL_DEVICE_IDS", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "options", "place"),
    [
        ({}, ("", 0, -1), None),
        ({}, ("", 1, -1), None),
        ({}, ("host:1234", 1, 0), None),
        ({}, ("host:1234", 2, 1), Place("host:1234", 2, 1, None)),
        (OURS, ("", 0, -1), Place("10.0.0.1:1234", 2, 0, None)),
        (OURS, ("", 0, 1), Place("10.0.0.1:1234", 2, 1, None)),
        (OURS | {"JAX_LOCAL_DEVICE_IDS": "0,1"}, ("", 0, -1), Place("10.0.0.1:1234", 2, 0, [0, 1])),
        (SLURM, ("", 0, -1), Place(f"node007:{65535 - 4095 + 4242 % 4096}", 4, 3, [1])),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, ("", 0, -1), None),
        (OPEN_MPI_5, ("host:1234", 0, -1), Place("host:1234", 2, 1, None)),
        (OPEN_MPI, ("", 0, -1), Place("10.96.0.1:62624", 2, 1, [0])),
    ],
)
def test_the_place_of_a_process(monkeypatch, environment, options, place):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert find_place(*options, timeout=5.0) == place


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        ({}, ("", 4, -1), "need all of --coordinator, --num-processes and --process-id"),
        (OPEN_MPI_5, ("", 0, -1), "--coordinator.*, --num-processes and --process-id"),
        ({}, ("host:1234", 2, -1), "there are host:1234, 2 and None"),
        ({}, ("host", 2, 0), "--coordinator is host: it must be HOST:PORT"),
        ({}, ("host:1234", 2, 2), "--process-id is 2: it must be 0 to 1"),
        ({"JAX_NUM_PROCESSES": "two"}, ("", 0, -1), r"\$JAX_NUM_PROCESSES is two"),
    ],
)
def test_a_place_that_cannot_be(monkeypatch, environment, options, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        find_place(*options, timeout=5.0)


def test_alone_there_is_nothing_to_wait_for():
    with hosts.start():
        assert hosts.is_leader()
        hosts.barrier("lunch")
        hosts.agree("lunch", "soup")
    layout = MeshConfig(data=2, fsdp=2, tensor=2).build(8)
    assert hosts.host_rows(layout.batch, 8) == tuple(range(8))
    whole = hosts.to_global({"a": np.arange(8)}, layout.batch, 8)["a"]
    assert whole.sharding == layout.batch
    np.testing.assert_array_equal(whole, np.arange(8))


def test_the_code_has_a_digest(monkeypatch, tmp_path):
    (tmp_path / "ops").mkdir()
    monkeypatch.setattr("jaxseq.__file__", str(tmp_path / "__init__.py"))
    digests = []
    for name, text in (("a.py", "1"), ("a.py", "2"), ("ops/b.py", "1"), ("notes.txt", "1")):
        (tmp_path / name).write_text(text)
        digests.append(hosts.code_digest())
    assert len(set(digests)) == 3
    assert digests[2] == digests[3]


def test_two_processes_share_batches_and_checkpoints_and_must_agree(tmp_path):
    """What one process saves two restore, and the other way; then their configs differ."""
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        checkpoints.save(jax.tree.map(jax.numpy.asarray, state(1)), 1)
        checkpoints.wait()
    outcome = ends(start_processes(WORKER, "all", tmp_path, devices=2))
    differs = (
        r"process 1 (HOST) has another experiment than process 0 (HOST): model.width is 8 on "
        r"process 0 (HOST) and 9 on process 1 (HOST); give every host the same code and "
        "the same command"
    ).replace("HOST", socket.gethostname())
    for status, output in outcome:
        assert status in (1, 2), output
        assert differs in output
    layout = MeshConfig(data=1, fsdp=4, tensor=2).build(8)
    spec = jax.sharding.PartitionSpec("fsdp", "tensor")
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape,
            leaf.dtype,
            sharding=jax.sharding.NamedSharding(
                layout.mesh, spec if leaf.ndim else jax.sharding.PartitionSpec()
            ),
        ),
        state(2),
    )
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        found = checkpoints.restore(like)
    jax.tree.map(np.testing.assert_array_equal, found, state(2))


def test_a_barrier_names_who_did_not_come(tmp_path):
    (status, output), (_, other) = ends(start_processes(WORKER, "absent", tmp_path, devices=1))
    said = f"process 1 ({socket.gethostname()}) did not come to the barrier 'lunch' within 1 s"
    assert status == 1
    assert said in output
    assert f"another process failed: process 0 ({socket.gethostname()}): {said}" in other


def test_nobody_to_meet_is_one_line_without_an_abort():
    """The first process finds that the others do not come, and they that it is not there."""
    code = (
        "import sys; from jaxseq.parallel import hosts; from jaxseq.errors import UserError\n"
        "try:\n"
        "    with hosts.start(sys.argv[1], 2, int(sys.argv[2]), timeout=0.5): pass\n"
        "except UserError as error: print(error); sys.exit(2)"
    )
    with socket.socket() as one, socket.socket() as two:
        one.bind(("localhost", 0))
        two.bind(("localhost", 0))
        addresses = [f"localhost:{port.getsockname()[1]}" for port in (one, two)]
    processes = [
        process
        for number, address in enumerate(addresses)
        for process in start_processes("-c", code, address, number, count=1)
    ]
    said = (
        f"process 0 of 2 listened at {addresses[0]} for 0.5 s and not all others came; check that",
        f"process 1 of 2 could not reach the coordinator {addresses[1]} for 0.5 s (",
    )
    for (status, output), expected in zip(ends(processes), said, strict=True):
        assert status == 2, output
        assert expected in output
        assert "stack trace" not in output


def test_the_end_waits_for_who_is_slow():
    for status, output in ends(start_processes(WORKER, "end", ".", devices=1)):
        assert status == 0, output
        assert "Terminating" not in output


def test_the_death_of_one_ends_all_others_with_its_name():
    *others, (killed, _) = ends(start_processes(WORKER, "lost", ".", count=3, devices=1))
    assert killed == -signal.SIGKILL
    said = f"process 2 ({socket.gethostname()}) gave no sign of life and is taken for lost; to go"
    for status, output in others:
        assert status == 75, output
        assert said in output
        assert "Terminating" not in output
