#!/usr/bin/env bash
# An experiment on a Cloud TPU slice: all its hosts run the same `jaxseq train`.
#
#   scripts/tpu_pod.sh start NAME --type v5litepod-16 --zone ZONE --bucket BUCKET [--spot] \
#       -- experiments/llama_1b.py [OPTIONS OF THE EXPERIMENT]
#   scripts/tpu_pod.sh follow NAME --zone ZONE [--worker 0]
#   scripts/tpu_pod.sh fetch NAME --bucket BUCKET
#   scripts/tpu_pod.sh stop NAME --zone ZONE
#
# start   asks for the slice as a queued resource, waits for it, copies the working tree to its
#         hosts, installs, starts the run, stays until it ends, and gives the slice back. A run
#         that loses a host goes on from its last checkpoint; with --spot a slice that is taken
#         away is asked for again; both at most --max-restarts times (20). Interrupted and called
#         again, it takes up the run where it is.
# follow  shows the log of one host.
# fetch   copies the run directory to runs/NAME, whether the slice stands or not.
# stop    has the run save its state, and gives the slice back.
#
# The run directory is gs://BUCKET/NAME, mounted on all hosts, which share no disk.
# Further options: --project, --runtime (the image of the hosts), --dry-run (prints the commands).

# shellcheck source=scripts/launch.bash
source "$(dirname "${BASH_SOURCE[0]}")/launch.bash"
poll_seconds="${JAXSEQ_POLL_SECONDS:-30}"

main() {
  parse "start follow fetch stop" \
    "type zone bucket project runtime worker max-restarts spot*" "$@"
  place=("--zone=$zone")
  [ -z "$project" ] || place+=("--project=$project")
  case "$verb" in
    start) start ;;
    follow)
      need zone
      on_hosts "${worker:-0}" "tail -n 100 -F $name.log"
      ;;
    fetch)
      need_bucket
      run mkdir -p "runs/$name"
      run gcloud storage rsync --recursive "gs://$bucket/$name" "runs/$name"
      ;;
    stop)
      need zone
      on_hosts all "bash jaxseq/scripts/tpu_host.sh stop $name" ||
        echo "no answer; what was saved last is in the bucket" >&2
      give_back
      ;;
  esac
}

start() {
  need type zone
  need_count max-restarts 20
  need_experiment
  [ -n "$runtime" ] || runtime="$(usual_runtime)"
  need_bucket
  local asked="" restarts=0 status
  # What a dry run pretends to hear.
  slice_answer=none run_answer=none
  while :; do
    case "$(slice_state)" in
      none)
        [ -z "$asked" ] || fail "the slice $name is gone: somebody gave it back"
        ask_for_slice
        asked=yes
        ;;
      ACTIVE)
        status="$(run_status)"
        case "$status" in
          none) launch || again "the hosts could not be set up" ;;
          0) break ;;
          # It was asked to stop (143) or lost another host (134), and is there to go on.
          143 | 134)
            again "the run ended with status $status"
            launch || true
            ;;
          [0-9]*)
            on_hosts 0 "tail -n 20 $name.log" >&2 || true
            fail "the run ended with status $status, see above; the slice stands: mend it and" \
              "start again, or stop"
            ;;
        esac
        ;;
      SUSPENDED | FAILED)
        [ -n "$spot" ] || fail "the slice $name was refused or taken away; stop, and start again"
        again "the slice was refused or taken away"
        give_back
        asked=""
        ;;
    esac
    [ -n "$dry_run" ] || sleep "$poll_seconds"
  done
  give_back
  [ -n "$dry_run" ] ||
    echo "the run is done; to have it: scripts/tpu_pod.sh fetch $name --bucket $bucket" >&2
}

again() {
  [ "$restarts" -lt "$max_restarts" ] || fail "$1; no more than --max-restarts $max_restarts"
  restarts=$((restarts + 1))
  echo "$1; restart $restarts of at most $max_restarts" >&2
}

usual_runtime() {
  case "$type" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v[234]-*) echo tpu-ubuntu2204-base ;;
    *) fail "--type '$type' is no v2, v3, v4, v5litepod, v5p or v6e; say its image with --runtime" ;;
  esac
}

# ---- the slice ------------------------------------------------------------------------------

# "none" where nobody asked for it, "unknown" where there is no answer.
slice_state() {
  local state
  state="$(reply "$slice_answer" gcloud compute tpus queued-resources list "${place[@]}" \
    "--filter=name~/$name\$" "--format=value(state.state)")" || state=unknown
  echo "${state:-none}"
}

ask_for_slice() {
  run gcloud compute tpus queued-resources create "$name" "--node-id=$name" "${place[@]}" \
    "--accelerator-type=$type" "--runtime-version=$runtime" ${spot:+--spot}
  slice_answer=ACTIVE
}

give_back() {
  run gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet
}

# ---- its hosts ------------------------------------------------------------------------------

on_hosts() {
  run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" "--worker=$1" "--command=$2"
}

# "none" before the first start, "running", or how it ended; "unknown" where there is no answer.
run_status() {
  reply "$run_answer" gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=0 \
    "--command=bash jaxseq/scripts/tpu_host.sh status $name 2>/dev/null || echo none" ||
    echo unknown
}

launch() {
  local folder tree status=0
  folder="$(reply /tmp/jaxseq mktemp -d)"
  tree="$folder/jaxseq.tar.gz"
  pack_tree "$tree" &&
    run gcloud compute tpus tpu-vm scp "$tree" "$name:" "${place[@]}" --worker=all &&
    on_hosts all "mkdir -p jaxseq && tar -xzf jaxseq.tar.gz -C jaxseq" &&
    on_hosts all "bash jaxseq/scripts/tpu_host.sh prepare $bucket" &&
    on_hosts all "bash jaxseq/scripts/tpu_host.sh start $name $(quoted "${experiment[@]}")" ||
    status=$?
  run rm -r "$folder"
  run_answer=0
  return "$status"
}

main "$@"
