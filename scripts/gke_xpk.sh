#!/usr/bin/env bash
# An experiment on TPU slices of a GKE cluster, through xpk.
#
#   scripts/gke_xpk.sh attach NAME --cluster CLUSTER --zone ZONE --bucket BUCKET
#   scripts/gke_xpk.sh start NAME --cluster CLUSTER --zone ZONE --type v5litepod-256 [--slices 2] \
#       -- experiments/llama_1b.py [OPTIONS OF THE EXPERIMENT]
#   scripts/gke_xpk.sh follow NAME
#   scripts/gke_xpk.sh fetch NAME --bucket BUCKET
#   scripts/gke_xpk.sh stop NAME --cluster CLUSTER --zone ZONE
#
# attach  once for a cluster: BUCKET becomes the place of its runs, under the name NAME.
# start   puts the working tree into a container (--image, python:3.12), which installs it and
#         runs `jaxseq train` with the directory NAME in the bucket as its run directory. Pods that
#         are lost, as those of a spot cluster are, come back and go on from the last checkpoint, at
#         most --max-restarts times (20); a mistake in the options ends the run at once. --storage
#         says what `attach` was told (runs).
# follow  shows the log of the first host; kubectl must look at the cluster, as it does after start.
# fetch   copies the run directory to runs/NAME.
# stop    has the run save its state, and removes it.
#
# Further options: --project, --dry-run (prints the commands). `xpk cluster create` makes clusters.

# shellcheck source=scripts/launch.bash
source "$(dirname "${BASH_SOURCE[0]}")/launch.bash"
mount_point=/runs

main() {
  parse "attach start follow fetch stop" \
    "cluster zone project type slices bucket storage image max-restarts" "$@"
  place=("--cluster=$cluster" "--zone=$zone")
  [ -z "$project" ] || place+=("--project=$project")
  case "$verb" in
    attach)
      need cluster zone
      need_bucket
      run xpk storage attach "$name" "${place[@]}" --type=gcsfuse "--bucket=$bucket" \
        "--mount-point=$mount_point" --readonly=false --auto-mount=false --size=1
      ;;
    start) start ;;
    follow)
      local first=jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0
      run kubectl logs --follow --tail=100 --container=jax-tpu \
        "--selector=xpk.google.com/workload=$name,$first"
      ;;
    fetch)
      need_bucket
      run mkdir -p "runs/$name"
      run gcloud storage rsync --recursive "gs://$bucket/$name" "runs/$name"
      ;;
    stop)
      need cluster zone
      run xpk workload delete "--workload=$name" "${place[@]}" --force
      ;;
  esac
}

start() {
  need cluster zone type
  need_count slices 1
  need_count max-restarts 20
  need_experiment
  local folder install train
  folder="$(reply /tmp/jaxseq mktemp -d)"
  [ -n "$dry_run" ] || trap "rm -rf '$folder'" EXIT
  pack_tree "$folder.tar.gz"
  run tar -xzf "$folder.tar.gz" -C "$folder"
  run rm "$folder.tar.gz"
  # exec: SIGTERM must reach the run, which then saves its state.
  install="pip install -q -c constraints.txt -e '.[tpu]'"
  train="exec jaxseq train $(quoted "${experiment[@]}") --run-dir $mount_point/$name"
  run xpk workload create "--workload=$name" "${place[@]}" "--tpu-type=$type" \
    "--num-slices=$slices" "--storage=${storage:-runs}" "--max-restarts=$max_restarts" \
    "--base-docker-image=${image:-python:3.12}" "--script-dir=$folder" \
    "--command=$install && $train"
}

main "$@"
