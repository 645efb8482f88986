#!/usr/bin/env bash
# An experiment on GPU nodes of a Slurm cluster, one process a GPU.
#
#   scripts/slurm.sh start NAME [--nodes 2] [--gpus 8] [--time 24:00:00] [--partition P] \
#       [--account A] -- experiments/gpt2_124m.py [OPTIONS OF THE EXPERIMENT]
#   scripts/slurm.sh follow NAME
#   scripts/slurm.sh fetch NAME --host LOGIN
#   scripts/slurm.sh stop NAME
#
# start   submits scripts/slurm.sbatch. A run that is preempted or comes to its time limit saves
#         its state, goes back into the queue and goes on, at most --max-restarts times (100).
# follow  shows the log, runs/NAME.log.
# fetch   copies the run directory from LOGIN to runs/NAME.
# stop    has the run save its state, and ends it.
#
# On a login node these are all. From elsewhere, with --host LOGIN every command goes through ssh
# to the directory --dir there (jaxseq), and start copies the working tree first. Either way the
# directory is on a disk that all nodes see, and has an environment that is made once:
#     python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[cuda]'
# Further options: --dry-run (prints the commands). SBATCH_... in the environment hold as always.

# shellcheck source=scripts/launch.bash
source "$(dirname "${BASH_SOURCE[0]}")/launch.bash"

main() {
  parse "start follow fetch stop" \
    "nodes gpus time partition account max-restarts host dir" "$@"
  dir="${dir:-jaxseq}"
  case "$verb" in
    start) start ;;
    follow) there tail -n 100 -F "runs/$name.log" ;;
    fetch)
      [ -n "$host" ] || fail "without --host the run is here already, in runs/$name"
      run mkdir -p "runs/$name"
      run rsync -a "$host:$dir/runs/$name/" "runs/$name/"
      ;;
    # Slurm sends SIGTERM, and SIGKILL KillWait seconds later (30 where nobody changed it).
    stop) there scancel "--jobname=$name" ;;
  esac
}

start() {
  need_count nodes 1
  need_count gpus 8
  need_count max-restarts 100
  need_experiment
  if [ -n "$host" ]; then
    run bash -o pipefail -c "$list_tree | rsync -a --from0 --files-from=- ./ \"\$2\"" \
      bash "$repository" "$host:$dir/"
  fi
  there mkdir -p runs
  there sbatch "--job-name=$name" "--output=runs/$name.log" "--nodes=$nodes" \
    "--gpus-per-node=$gpus" "--ntasks-per-node=$gpus" ${time:+"--time=$time"} \
    ${partition:+"--partition=$partition"} ${account:+"--account=$account"} \
    "--export=ALL,JAXSEQ_MAX_RESTARTS=$max_restarts" scripts/slurm.sbatch \
    "${experiment[@]}" --run-dir "runs/$name"
}

# Runs a command in the directory of the cluster.
there() {
  if [ -n "$host" ]; then
    run ssh "$host" "cd $(quoted "$dir") && $(quoted "$@")"
  else
    cd "$repository"
    run "$@"
  fi
}

main "$@"
