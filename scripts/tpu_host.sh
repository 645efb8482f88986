#!/usr/bin/env bash
# What tpu_pod.sh has every host of a slice do, in its home directory.
#
#   tpu_host.sh prepare BUCKET                      mounts the bucket at ~/runs, installs ~/jaxseq
#   tpu_host.sh start NAME EXPERIMENT.py [OPTIONS]  the run in the background, its output to
#                                                   ~/NAME.log, how it ended to ~/NAME.status
#   tpu_host.sh status NAME                         "none", "running", "stopped" or how it ended
#   tpu_host.sh stop NAME                           SIGTERM, and waits for the run to end

set -euo pipefail
cd
gcsfuse_version=3.7.1

prepare() {
  if ! command -v gcsfuse >/dev/null; then
    local package="gcsfuse_${gcsfuse_version}_amd64.deb"
    curl -fsSLO "https://github.com/GoogleCloudPlatform/gcsfuse/releases/download/v$gcsfuse_version/$package"
    sudo apt-get install -qq -y "./$package"
  fi
  mkdir -p runs
  mountpoint -q runs || gcsfuse "$1" runs
  cd jaxseq
  # The images come with Python 3.10; uv brings a newer one.
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --user uv
  [ -d .venv ] || python3 -m uv venv -q --python 3.12 .venv
  python3 -m uv pip install -q --python .venv -c constraints.txt -e '.[tpu]'
}

start() {
  rm -f "$1.stopping"
  echo running >"$1.status"
  # In a session of its own, so that it outlives the connection.
  setsid nohup bash jaxseq/scripts/tpu_host.sh supervise "$@" </dev/null >>"$1.log" 2>&1 &
}

supervise() {
  local name="$1" status=0
  (cd jaxseq && exec .venv/bin/jaxseq train "${@:2}" --run-dir "../runs/$name") &
  echo $! >"$name.pid"
  wait $! || status=$?
  [ ! -e "$name.stopping" ] || status=stopped
  echo "$status" >"$name.status"
}

status() {
  local status
  status="$(cat "$1.status" 2>/dev/null || echo none)"
  # The host was restarted under it, which is a SIGTERM too.
  if [ "$status" = running ] && [ -e "$1.pid" ] && ! kill -0 "$(cat "$1.pid")" 2>/dev/null; then
    sleep 0.5 # or the supervisor is just about to write it
    status="$(cat "$1.status")"
    [ "$status" != running ] || status=143
  fi
  echo "$status"
}

stop() {
  [ "$(status "$1")" = running ] || return 0
  touch "$1.stopping"
  kill "$(cat "$1.pid")" 2>/dev/null || true
  for _ in {1..120}; do
    [ "$(status "$1")" = running ] || break
    sleep 0.5
  done
}

"$@"
