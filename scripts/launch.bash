# What the launchers share. Sourced, not run; for bash from 3.2 on, which is what macOS has.

set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
exec 3>&1 # where a dry run prints, also from inside $(...)

# The reason goes to standard error; 2 is jaxseq's own status for a mistake to mend.
fail() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# The comment at the head of a launcher is its help.
show_help() {
  awk 'NR > 1 && !/^#/ {exit} NR > 1 {sub(/^# ?/, ""); print}' "$0"
}

# The words as a shell reads them back.
quoted() {
  local word separator=""
  for word in "$@"; do
    case "$word" in
      "" | *[!A-Za-z0-9_./:=,@%+-]*) word="'$(printf %s "$word" | sed "s/'/'\\\\''/g")'" ;;
    esac
    printf '%s%s' "$separator" "$word"
    separator=" "
  done
  echo
}

# With --dry-run a command is printed and not run.
run() {
  if [ -n "$dry_run" ]; then quoted "$@" >&3; else "$@"; fi
}

# reply PRETENDED COMMAND...: what a command answers; in a dry run, what one pretends it did.
reply() {
  if [ -n "$dry_run" ]; then
    quoted "${@:2}" >&3
    echo "$1"
  else
    "${@:2}"
  fi
}

# parse VERBS OPTIONS ARGUMENTS...: sets $verb, $name, a variable for each option (--max-restarts:
# $max_restarts) and the array `experiment`, what follows `--`. A * marks an option without a
# value. All launchers have --dry-run.
parse() {
  local verbs="$1" known="$2 dry-run*" option key
  shift 2
  for option in $known; do
    option="${option%\*}"
    printf -v "${option//-/_}" '%s' ""
  done
  experiment=()
  case "${1-}" in "" | -h | --help) show_help && exit 0 ;; esac
  verb="$1" name="${2-}"
  case " $verbs " in *" $verb "*) ;; *) fail "unknown verb '$verb'; there are $verbs" ;; esac
  case "$name" in
    "" | -*) fail "$verb needs the name of a run: $verb NAME" ;;
    [!a-z]* | *[!a-z0-9-]* | *-) fail "the name '$name' must be of a-z, 0-9 and -, like my-run-1" ;;
  esac
  shift 2
  while [ $# -gt 0 ]; do
    if [ "$1" = -- ]; then
      experiment=("${@:2}")
      return
    fi
    option="${1%%=*}"
    option="${option#--}"
    key="${option//-/_}"
    case " $known " in
      *" $option* "*) printf -v "$key" yes ;;
      *" $option "*)
        case "$1" in
          *=*) printf -v "$key" %s "${1#*=}" ;;
          *)
            [ $# -gt 1 ] || fail "$1 needs a value"
            printf -v "$key" %s "$2"
            shift
            ;;
        esac
        ;;
      *)
        fail "unknown option '$1'; there are ${known//\*/}; an experiment and its own come behind --"
        ;;
    esac
    shift
  done
}

# need OPTIONS...: those that the verb cannot do without.
need() {
  local option key
  for option in "$@"; do
    key="${option//-/_}"
    [ -n "${!key}" ] || fail "$verb needs --$option"
  done
}

# need_count OPTION DEFAULT
need_count() {
  local key="${1//-/_}"
  [ -n "${!key}" ] || printf -v "$key" %s "$2"
  case "${!key}" in *[!0-9]*) fail "--$1 is '${!key}'; it must be a number" ;; esac
}

# The experiment stands in the tree that is copied; where the run lives is the launcher's matter.
need_experiment() {
  local word
  [ ${#experiment[@]} -gt 0 ] || fail "$verb needs an experiment: ... -- experiments/gpt_char.py"
  [ -f "$repository/${experiment[0]}" ] ||
    fail "there is no ${experiment[0]} in $repository; name the experiment from there"
  for word in "${experiment[@]}"; do
    case "$word" in
      --run-dir | --run-dir=*) fail "the name of the run decides its directory; leave --run-dir out" ;;
    esac
  done
}

# A bucket by its name, with gs:// or without. A complete checkpoint is renamed, which only a
# bucket that has folders does in one go.
need_bucket() {
  need bucket
  bucket="${bucket#gs://}"
  bucket="${bucket%/}"
  case "$bucket" in */*) fail "--bucket '$bucket' must be a bucket, without a folder" ;; esac
  local folders
  folders="$(reply True gcloud storage buckets describe "gs://$bucket" --raw \
    "--format=value(hierarchicalNamespace.enabled)")" || fail "gs://$bucket cannot be used, see above"
  [ "$folders" = True ] || fail "checkpoints are atomic only in a bucket with folders, and" \
    "gs://$bucket has none; make another: gcloud storage buckets create gs://BUCKET" \
    "--location=REGION --uniform-bucket-level-access --enable-hierarchical-namespace"
}

# The files of the working tree $1 that git knows or would add, for `bash -c`, ended by NULs.
# shellcheck disable=SC2016
list_tree='cd "$1" && git ls-files -zco --exclude-standard |
while IFS= read -r -d "" file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done'
list_tree="${list_tree//$'\n'/ }"

# pack_tree FILE.tar.gz
pack_tree() {
  run bash -o pipefail -c "$list_tree | tar --null -T - -czf \"\$2\"" bash "$repository" "$1"
}
