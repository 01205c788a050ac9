# bash completion for lockr. Installed where bash-completion finds it; `source` it where there is none.

# Fills `words` up to the cursor as lockr gets them: readline takes words apart at ':' and '='.
_lockr_words() {
  local line=${COMP_LINE:0:COMP_POINT} blank word i
  words=()
  for ((i = 0; i <= COMP_CWORD; i++)); do
    blank=${line%%[![:space:]]*}
    line=${line#"$blank"}
    word=${COMP_WORDS[i]}
    if ((i == COMP_CWORD)); then word=$line; fi  # without what follows the cursor
    line=${line#"$word"}
    if [[ -z $blank && i -gt 0 ]]; then words[-1]+=$word; else words+=("$word"); fi
  done
}

# Offers what of $1, a list of lines, goes on from the word $2, less what readline has set apart as words of its own.
_lockr_offer() {
  local IFS=$'\n' apart=
  mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2")
  if [[ $2 == *[:=]* && $COMP_WORDBREAKS == *:* ]]; then apart=${2%"${2##*[:=]}"}; fi
  COMPREPLY=("${COMPREPLY[@]#"$apart"}")
}

_lockr_files() {
  mapfile -t COMPREPLY < <(compgen -f -- "$1")
  compopt -o filenames 2>/dev/null
}

# The keys that somebody holds or waits for now, of the engine that the words so far choose; none if it can't tell at
# once. Keys that a shell would have to quote are left out.
_lockr_keys() {
  local engine=() i
  for ((i = 1; i < ${#words[@]} - 1; i++)); do
    case ${words[i]} in
      --config | --backend) engine=("${words[i]}" "${words[i + 1]/#~\//$HOME/}") ;;
      --config=* | --backend=*) engine=("${words[i]}") ;;
    esac
  done
  timeout 1 "${words[0]/#~\//$HOME/}" who --json "${engine[@]}" 2>/dev/null </dev/null |
    sed -n 's/^ *{"key":"\([A-Za-z0-9_.:@%+,/-]*\)".*/\1/p' | sort -u
}

# The command of `run`, after the "--" that is word $1.
_lockr_command() {
  local cur=${words[-1]} i
  if declare -F _command_offset >/dev/null; then
    for ((i = 0; i < COMP_CWORD; i++)); do
      if [[ ${COMP_WORDS[i]} == -- ]]; then break; fi
    done
    _command_offset $((i + 1))
  elif ((${#words[@]} == $1 + 2)) && [[ $cur != */* ]]; then
    mapfile -t COMPREPLY < <(compgen -c -- "$cur" | sort -u)
  else
    _lockr_files "$cur"
  fi
}

_lockr() {
  local words command cur previous options i
  _lockr_words
  COMPREPLY=()
  command=${words[1]} cur=${words[-1]} previous=${words[-2]}
  if ((${#words[@]} == 2)); then
    _lockr_offer $'run\nwho\nwhy\ndoctor\nbackends\nconfig\npostgres\n-h\n--help\n-V\n--version' "$cur"
    return
  fi

  options=$'-h\n--help\n-V\n--version'
  case $command in
    run)
      options+=$'\n-s\n--shared\n-x\n-e\n--exclusive\n-n\n--nb\n--nonblock\n-w\n--wait\n--timeout\n-E'
      options+=$'\n--conflict-exit-code\n-c\n--command\n--grace\n--at-least\n--at-most\n--label\n--verbose\n--config\n--backend'
      for ((i = 2; i < ${#words[@]} - 1; i++)); do
        if [[ ${words[i]} == -- ]]; then
          _lockr_command "$i"
          return
        fi
      done
      ;;
    who | why) options+=$'\n--json\n--config\n--backend' ;;
    doctor | config) options+=$'\n--config\n--backend' ;;
    postgres) options+=$'\n--print\n--role\n--config\n--backend' ;;
    backends) ;;
    *) return ;;
  esac

  case $cur in
    --config=*)
      _lockr_files "${cur#*=}"
      return
      ;;
    --*=*) return ;;
  esac
  case $previous in
    --config)
      _lockr_files "$cur"
      return
      ;;
    --backend | --grace | --at-least | --at-most | --label | --role | -w | --wait | --timeout | -E | --conflict-exit-code | -c | --command) return ;;
  esac
  case $command:$cur in
    *:-*) _lockr_offer "$options" "$cur" ;;
    run:* | who:* | why:*) _lockr_offer "$(_lockr_keys)" "$cur" ;;
    postgres:*) if [[ $previous == postgres ]]; then _lockr_offer init "$cur"; fi ;;
    config:*)
      case $previous in
        config) _lockr_offer $'check\nschema' "$cur" ;;
        check) _lockr_files "$cur" ;;
      esac
      ;;
  esac
}

complete -F _lockr lockr
