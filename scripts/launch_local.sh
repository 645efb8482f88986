#!/usr/bin/env bash
# A rehearsal of several hosts: N processes of one command on this machine.
#
#   scripts/launch_local.sh N [--devices K] [--port PORT] [--dry-run] -- COMMAND...
#   scripts/launch_local.sh 2 --devices 4 -- jaxseq train experiments/gpt_char.py --run-dir runs/two
#
# Each process finds the others by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in
# its environment, and its lines begin with its number. With --devices each has K CPU devices;
# without, what the machine has: give each its own GPU by a COMMAND that sets CUDA_VISIBLE_DEVICES
# from JAX_PROCESS_ID.
#
# Ctrl-C and SIGTERM go to all as SIGTERM, after which a run of jaxseq saves its state. When one
# process fails, the others have JAXSEQ_GRACE seconds (10) to say so and end, and are then killed.
# The status is that of the first that failed.

# shellcheck source=scripts/launch.bash
source "$(dirname "${BASH_SOURCE[0]}")/launch.bash"

main() {
  case "${1-}" in "" | -h | --help) show_help && exit 0 ;; esac
  local count="$1" devices="" port="" number line
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case "$1" in
      --devices | --port) [ $# -gt 1 ] || fail "$1 needs a value" ;;
    esac
    case "$1" in
      --devices) devices="$2" && shift ;;
      --port) port="$2" && shift ;;
      --dry-run) dry_run=yes ;;
      *) fail "unknown option '$1'; there are --devices --port --dry-run; the command stands behind --" ;;
    esac
    shift
  done
  [ $# -gt 1 ] || fail "name the command: N -- COMMAND..."
  shift
  for number in "N:$count" "--devices:${devices:-1}" "--port:${port:-1}"; do
    case "${number#*:}" in
      "" | *[!0-9]* | 0*) fail "${number%%:*} is '${number#*:}'; it must be a number from 1 up" ;;
    esac
  done
  [ -n "$port" ] || port=$((20000 + RANDOM % 20000))

  local settings=("JAX_COORDINATOR_ADDRESS=localhost:$port" "JAX_NUM_PROCESSES=$count")
  if [ -n "$devices" ]; then
    settings+=("JAX_PLATFORMS=cpu")
    settings+=("XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices")
  fi
  for ((number = 0; number < count; number++)); do
    line=(env "${settings[@]}" "JAX_PROCESS_ID=$number" "$@")
    if [ -n "$dry_run" ]; then
      quoted "${line[@]}"
    else
      "${line[@]}" > >(label "$number") 2>&1 &
      left+=($!)
    fi
  done
  [ -n "$dry_run" ] || wait_for_all
}

# The lines of standard input, behind the number of their process.
label() {
  trap "" INT TERM
  local text
  while IFS= read -r text || [ -n "$text" ]; do printf '[%s] %s\n' "$1" "$text"; done
}

# Ends when all processes have, with the status of the first that failed.
wait_for_all() {
  local process running code status=0 failed=""
  trap 'kill -TERM ${left[@]+"${left[@]}"} 2>/dev/null || true' INT TERM
  while [ ${#left[@]} -gt 0 ]; do
    running=()
    for process in "${left[@]}"; do
      if kill -0 "$process" 2>/dev/null; then
        running+=("$process")
      else
        code=0
        wait "$process" || code=$?
        [ "$code" = 0 ] || [ -n "$failed" ] || status="$code" failed="$SECONDS"
      fi
    done
    left=(${running[@]+"${running[@]}"})
    if [ -n "$failed" ] && [ ${#left[@]} -gt 0 ] && [ $((SECONDS - failed)) -ge "$grace" ]; then
      echo "launch_local.sh: ${#left[@]} of $count processes still ran when another had failed, and are killed" >&2
      kill -KILL "${left[@]}" 2>/dev/null || true
      wait "${left[@]}" 2>/dev/null || true
      break
    fi
    sleep 0.1 || true
  done
  exit "$status"
}

dry_run="" left=() grace="${JAXSEQ_GRACE:-10}"
main "$@"
