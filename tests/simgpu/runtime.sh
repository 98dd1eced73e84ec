#!/bin/sh
# A simulated nvidia container runtime, the second of the two places where a GPU is simulated:
# a wrapper around runc. Only `create` needs the bundle changed; Python's start is paid there
# alone, every other call is runc itself. simgpu.py fills in the @WORDS@ at build time.
case " $* " in
*" create "*)
    exec "@PYTHON@" -S -E -I "@HOME@/runtime.py" "@HOME@" "@RUNC@" "$@"
    ;;
*" delete "*)
    for id in "$@"; do :; done
    case "$id" in
    "" | *[!a-zA-Z0-9_-]*) ;;
    *) rm -rf "@HOME@/containers/$id" ;;
    esac
    ;;
esac
exec "@RUNC@" "$@"
