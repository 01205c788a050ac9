#!/bin/sh
# usage: options.sh SOURCE_FOLDER
# What the options make of the backends, as the summary of a configuration tells it; nothing is built.
set -eu
source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A pkg-config that knows all but one library.
cat >"$work/pkg-config" <<'END'
#!/bin/sh
case " $* " in *" $HIDDEN "*) exit 1 ;; esac
exec pkg-config "$@"
END
chmod +x "$work/pkg-config"

# set_up HIDDEN ARGUMENT...
set_up() {
  rm -rf "$work/build"
  HIDDEN=$1 PKG_CONFIG="$work/pkg-config"
  export HIDDEN PKG_CONFIG
  shift
  meson setup "$work/build" "$@" >"$work/log" 2>&1
}
# configure HIDDEN OPTION...
configure() {
  hidden=$1
  shift
  set_up "$hidden" "$source" --wrap-mode=nofallback -Dtests=disabled -Dbenchmarks=disabled -Dcli=disabled -Dexamples=disabled "$@"
}
# configure_parent HIDDEN: a project that has lockr as its subproject.
mkdir -p "$work/parent/subprojects"
cp -r "$source/tests/consumer/program/." "$work/parent"
ln -s "$source" "$work/parent/subprojects/lockr"
configure_parent() { set_up "$1" "$work/parent" --wrap-mode=nodownload --force-fallback-for=lockr; }
# says KEY VALUE: a line of the summary, the value whole.
says() {
  grep -Eq "^ *$1 *: *$2\$" "$work/log" || { cat "$work/log"; echo "no line: $1: $2"; exit 1; }
}
# refuses WORDS HIDDEN OPTION...
refuses() {
  words=$1
  shift
  if configure "$@"; then echo "configured, with $*" && exit 1; fi
  grep -q "ERROR: .*$words" "$work/log" || { cat "$work/log"; echo "no error: $words"; exit 1; }
}

configure nothing
says modules ''
says 'left out' 'cli \(disabled\), examples \(disabled\),.*'
configure nothing -Dfile=disabled
says 'left out' '(.*, )?file \(disabled\)(, .*)?'
configure nothing -Dmodules=file
says modules file

# The tests don't need a backend to be built in.
configure nothing
all=$(sed -n 's/^ *built in *: *memory, //p' "$work/log")
configure nothing -Dtests=enabled "-Dmodules=$(echo "$all" | tr -d ' ')"
says modules "$all"
says 'built in' memory

# Backends whose library may be missing: left out by themselves, an error where they are asked for.
for pair in postgres=libpq redis=hiredis; do
  backend=${pair%=*} library=${pair#*=}
  grep -q "^option('$backend'" "$source/meson_options.txt" || continue
  configure "$library"
  says 'left out' "(.*, )?$backend \(not found: $library >= [0-9.]*\)(, .*)?"
  configure_parent "$library"
  says 'left out' "(.*, )?$backend \(not found: $library >= [0-9.]*\)(, .*)?"
  refuses "$library" "$library" "-D$backend=enabled"
done

refuses 'the backend file is to be a module' nothing -Dmodules=file -Dfile=disabled
