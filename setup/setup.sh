# Sourced by ./rldg, which sets $root: makes .venv, build and install from what is checked in, or does nothing where they are
# up to date. Interrupting it at any point and running it again is safe: what was not finished is made again.

venv=$root/.venv
build=$root/build
install=$root/install
state=$root/.rldg
log=$state/setup.log

say() { printf 'rldg: %s\n' "$@" >&2; }

die() {
    say "$@"
    exit 1
}

# --- what to build on -----------------------------------------------------------------------------------------------

choose_ros() { # sets ros (wheels or distro), ros_name and lock
    ros=wheels ros_name='ROS 2 Kilted from PyPI wheels' lock=$root/setup/wheels.lock
    case ${RLDG_ROS:-auto} in
        wheels) ;;
        auto)
            if [ -n "${ROS_DISTRO:-}" ]; then
                case $ROS_DISTRO in
                    ardent | bouncy | crystal | dashing | eloquent | foxy | galactic | humble | iron | \
                        indigo | jade | kinetic | lunar | melodic | noetic)
                        die "ROS $ROS_DISTRO is sourced, but ROS 2 Jazzy or newer is needed" \
                            'source a newer one, or let RLDG bring its own: RLDG_ROS=wheels ./rldg ...'
                        ;;
                esac
                # Without its command line there is only a rest of an installation.
                if command -v ros2 >/dev/null; then
                    ros=distro ros_name="ROS 2 $ROS_DISTRO as sourced" lock=$root/setup/distro.lock
                fi
            fi
            ;;
        *) die "RLDG_ROS='$RLDG_ROS' is not known; allowed: wheels, or unset" ;;
    esac
    if [ "$ros" = wheels ] && [ "$(uname -sm)" != 'Linux x86_64' ]; then
        die "ROS 2 wheels exist for Linux x86_64 only, and this is $(uname -sm)" \
            'install ROS 2 Jazzy or newer and source it: https://docs.ros.org/en/jazzy/Installation.html'
    fi
}

probe_python() { # prints 'ok <path>' or why this interpreter cannot be used
    "$1" - 2>/dev/null <<'PROBE' || echo "does not run"
import importlib.util, os, sys, sysconfig
version = "%d.%d" % sys.version_info[:2]
if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    print("is Python %s; 3.11 to 3.14 are supported: sudo apt-get install python3.11 python3.11-venv python3.11-dev" % version)
elif not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
    print("has no venv module: sudo apt-get install python%s-venv" % version)
elif not os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
    print("has no C headers: sudo apt-get install python%s-dev" % version)
else:
    # not the interpreter of a virtual environment, which may be the very one about to be replaced
    print("ok " + os.path.abspath(getattr(sys, "_base_executable", sys.executable)))
PROBE
}

choose_python() { # sets python
    if [ -n "${RLDG_PYTHON:-}" ]; then
        set -- "$RLDG_PYTHON"
    elif [ "$ros" = distro ]; then
        # rclpy's extension modules fit only the interpreter that they were built for: the one that runs ros2
        set -- "$(sed -n '1s/^#! *\(.*python[^ ]*\).*/\1/p' "$(command -v ros2)")"
        case $1 in */python*) ;; *) set -- python3 ;; esac
    else
        set -- python3 python3.12 python3.13 python3.11 python3.14
    fi
    problems=
    for candidate; do
        command -v "$candidate" >/dev/null || continue
        answer=$(probe_python "$candidate")
        case $answer in
            'ok '*)
                python=${answer#ok }
                return
                ;;
        esac
        # a version manager's shim for a version that is not there runs nothing: not worth a word
        [ "$answer" = 'does not run' ] || problems="$problems$candidate $answer
"
    done
    say 'no Python to build on was found'
    if [ -n "$problems" ]; then
        printf '%s' "$problems" | sed 's/^/rldg: /' >&2
    else
        say "looked for: $*; sudo apt-get install python3 python3-venv python3-dev"
    fi
    exit 1
}

require_tools() {
    for tool in "${CC:-cc}" "${CXX:-c++}"; do
        command -v "${tool%% *}" >/dev/null ||
            die "no C and C++ compiler ('${tool%% *}' is not on PATH): sudo apt-get install gcc g++"
    done
    command -v flock >/dev/null || die "'flock' is missing: sudo apt-get install util-linux"
    if [ "$ros" = distro ]; then
        command -v colcon >/dev/null || die "'colcon' is missing: sudo apt-get install python3-colcon-common-extensions"
        command -v cmake >/dev/null || die "'cmake' is missing: sudo apt-get install cmake"
    fi
}

# --- what is there already ------------------------------------------------------------------------------------------

# A stamp is written when its directory is complete, and lies in it, so that both go together. Line 1: what cannot be changed in
# place (a virtual environment does not survive a move); line 2: checksum of everything it was made from.

take_stock() { # sets venv_state and build_state: current, outdated (can be brought up to date in place) or missing
    identity="$root $ros_name"
    venv_sum=$(cat "$lock" "$root/setup/setup.sh" | sha256sum)
    build_sum=$(
        cd "$root"
        {
            echo "$venv_sum"
            cat src/*/package.xml src/*/setup.py src/*/setup.cfg src/*/CMakeLists.txt src/*/msg/* src/*/srv/* src/*/action/*
            # of these only the names: symbolic links into the sources are installed, and a start script for each node
            find src/*/*/*_node.py launch config pretrained -type f 2>/dev/null | LC_ALL=C sort
        } | sha256sum
    )
    venv_state=$(stamp_state "$venv/.rldg-complete" "$venv_sum")
    if [ "$venv_state" != missing ] && [ ! -x "$venv/bin/python" ]; then venv_state=missing; fi
    build_state=$(stamp_state "$install/.rldg-complete" "$build_sum")
    if [ "$venv_state" != current ] && [ "$build_state" = current ]; then build_state=outdated; fi
    generalists_sum=$(echo "$venv_sum" | cat - "$root/setup/generalists.lock" | sha256sum)
    generalists_state=current
    if [ -n "${generalists:-}" ]; then
        generalists_state=$(stamp_state "$venv/.rldg-generalists" "$generalists_sum")
    fi
    rig_sum=$(echo "$venv_sum" | cat - "$root/setup/rig.lock" | sha256sum)
    rig_state=current
    if [ -n "${rig:-}" ]; then rig_state=$(stamp_state "$venv/.rldg-rig" "$rig_sum"); fi
}

stamp_state() { # stamp file, checksum
    if [ ! -r "$1" ]; then
        echo missing
        return
    fi
    { IFS= read -r was_identity && IFS= read -r was_sum; } <"$1" || true
    if [ "${was_identity:-}" != "$identity" ]; then
        echo missing
    elif [ "${was_sum:-}" != "$2" ]; then
        echo outdated
    else
        echo current
    fi
}

print_plan() {
    choose_ros
    choose_python
    require_tools
    take_stock
    echo "ros: $ros_name"
    echo "python: $python"
    echo "packages: ${lock#"$root"/}"
    echo ".venv: $venv_state"
    echo "install: $build_state"
}

# --- the stages -----------------------------------------------------------------------------------------------------

make_venv() {
    rm -rf "$venv"
    mkdir "$venv"
    # says who made it, before anything else can be interrupted
    : >"$venv/.rldg"
    if [ "$ros" = distro ]; then
        "$python" -m venv --system-site-packages "$venv"
    else
        "$python" -m venv "$venv"
    fi
    # pip is needed for one package only: uv installs the others ten times as fast
    sed -n '/^uv==/,/[^\\]$/p' "$lock" >"$state/uv.lock"
    "$venv/bin/python" -m pip install --disable-pip-version-check --require-hashes -r "$state/uv.lock"
}

install_packages() {
    rm -f "$venv/.rldg-complete"
    # --no-deps: the lock is complete, and what a distribution brings itself is left out of it on purpose.
    # --system-certs: the certificates that this machine trusts, which behind a proxy are more than the usual ones.
    VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --system-certs --no-progress --require-hashes --no-deps -r "$lock"
    # Bytecode is compiled now, because nothing does later where PYTHONDONTWRITEBYTECODE is set or .venv is read-only. What
    # cannot be compiled (templates, or a machine short of memory) only makes for a slower start.
    "$venv/bin/python" -m compileall -q -j 0 "$venv"/lib/python3.*/site-packages || echo 'not everything was compiled'
    if [ "$ros" = wheels ]; then fix_cmake_files; fi
    printf '%s\n%s\n' "$identity" "$venv_sum" >"$state/stamp"
    mv "$state/stamp" "$venv/.rldg-complete"
}

# What only the generalists need, a gigabyte of it, comes with the first verb that needs them. pip and not uv installs torch,
# because pip also takes the build without CUDA, which is a tenth of the size, from where PIP_FIND_LINKS or
# PIP_EXTRA_INDEX_URL point to.
torch=torch==2.13.0

install_generalists() {
    rm -f "$venv/.rldg-generalists"
    VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --system-certs --no-progress --require-hashes --no-deps \
        -r "$root/setup/generalists.lock"
    "$venv/bin/python" -m pip install --disable-pip-version-check "$torch"
    "$venv/bin/python" -m compileall -q -j 0 "$venv"/lib/python3.*/site-packages || echo 'not everything was compiled'
    printf '%s\n%s\n' "$identity" "$generalists_sum" >"$state/stamp"
    mv "$state/stamp" "$venv/.rldg-generalists"
}

# What only a rig or its rehearsal needs (17 MB).
install_rig() {
    rm -f "$venv/.rldg-rig"
    VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --system-certs --no-progress --require-hashes --no-deps \
        -r "$root/setup/rig.lock"
    "$venv/bin/python" -m compileall -q "$venv"/lib/python3.*/site-packages/frank* || echo 'not everything was compiled'
    printf '%s\n%s\n' "$identity" "$rig_sum" >"$state/stamp"
    mv "$state/stamp" "$venv/.rldg-rig"
}

fix_cmake_files() {
    # The message packages' CMake files name the include directories of the machine that built the wheels.
    paths=$("$venv/bin/python" -c 'import numpy, sysconfig; print(sysconfig.get_paths()["include"], numpy.get_include(), sep="\n")')
    python_include=$(printf '%s\n' "$paths" | sed -n 1p)
    numpy_include=$(printf '%s\n' "$paths" | sed -n 2p)
    built_in='/opt/python/cp3[0-9]+-cp3[0-9]+t?'
    grep -rlZ /opt/python/cp3 "$venv"/share/*/cmake | xargs -0 -r sed -i -E \
        -e "s#$built_in/lib/python3[.][0-9]+t?/site-packages/numpy/_?core/include#$numpy_include#g" \
        -e "s#$built_in/include/python3[.][0-9]+t?#$python_include#g"
    if grep -rl /opt/python/cp3 "$venv"/share/*/cmake; then
        echo 'these CMake files still name include directories of another machine'
        return 1
    fi
}

build_workspace() {
    # A compiler that was killed leaves half-written objects that look up to date; another Python leaves its modules.
    if [ "$venv_state" = missing ] || [ -e "$build/.rldg-unfinished" ]; then rm -rf "$build" "$install"; fi
    mkdir -p "$build"
    : >"$build/.rldg-unfinished"
    rm -f "$install/.rldg-complete"
    if [ "$ros" = wheels ]; then
        unset PYTHONPATH LD_LIBRARY_PATH COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
        PATH=$venv/bin:$PATH AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv CMAKE_GENERATOR=Ninja
        export PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH CMAKE_GENERATOR
        python=$venv/bin/python
    fi
    cd "$root"
    colcon --log-base "$state/colcon" build --base-paths src --build-base "$build" --install-base "$install" \
        --merge-install --symlink-install --event-handlers console_direct+ \
        --cmake-args -DPython3_EXECUTABLE="$python" -DBUILD_TESTING=OFF
    "$venv/bin/python" -m compileall -q "$install"/lib/python3.*/site-packages
    printf '%s\n%s\n' "$identity" "$build_sum" >"$state/stamp"
    mv "$state/stamp" "$install/.rldg-complete"
}

stage() { # text, command: its output goes to the log; tells how long it took, or why it failed
    say "set-up: $1 ..."
    printf '\n== %s ==\n' "$1" >>"$log"
    started=$(date +%s)
    # not in a condition, where the shell would go on after a failed command
    set +e
    (
        set -e
        "$2"
    ) >>"$log" 2>&1 </dev/null
    status=$?
    set -e
    if [ "$status" -ne 0 ]; then
        # The build tool itself stopped and left things in order (128 and more: it was killed).
        if [ "$status" -lt 128 ]; then rm -f "$build/.rldg-unfinished"; fi
        say "set-up failed: $1; the end of the log:"
        tail -n 20 "$log" | sed 's/^/    /' >&2
        say "the whole log: $log"
        exit 1
    fi
    say "set-up: $1: done in $(($(date +%s) - started)) s"
}

set_up() {
    choose_ros
    take_stock
    case $venv_state$build_state$generalists_state$rig_state in *missing* | *outdated*) ;; *) return ;; esac

    require_tools
    choose_python
    mkdir -p "$state"
    # The lock is held by this shell and by whatever it started, and goes when the last of them ends, however it ends.
    exec 9>"$state/lock"
    if ! flock -n 9; then
        say 'another ./rldg is setting up; waiting for it'
        flock 9
        take_stock
    fi
    trap 'say "set-up was interrupted; the next ./rldg goes on with it"; exit 130' INT TERM
    : >"$log"
    if [ "$venv_state" = missing ]; then
        if [ -e "$venv" ] && [ ! -e "$venv/.rldg" ]; then
            die "$venv was not made by ./rldg: move it away, then run again"
        fi
        stage "Python environment in .venv ($("$python" -V 2>&1))" make_venv
    fi
    if [ "$venv_state" != current ]; then stage "packages of ${lock#"$root"/} ($ros_name)" install_packages; fi
    if [ "$generalists_state" != current ]; then stage 'packages of the generalists (OpenVLA, Octo)' install_generalists; fi
    if [ "$rig_state" != current ]; then stage 'packages of the rig (franky, librealsense)' install_rig; fi
    if [ "$build_state" != current ]; then
        stage 'workspace: colcon build into install' build_workspace
        rm -f "$build/.rldg-unfinished"
    fi
    if ! "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libEGL.so.1")' 2>/dev/null; then
        say 'warning: libEGL is missing, so nothing can be rendered: sudo apt-get install libegl1 libgl1-mesa-dri'
    fi
    trap - INT TERM
    exec 9>&-
}
