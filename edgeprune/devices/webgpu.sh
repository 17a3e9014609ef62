#!/usr/bin/env bash
# Makes the environment of the device webgpu_software, for `make webgpu`: onnxruntime with the WebGPU
# provider, and Mesa's software Vulkan (lavapipe). Needs no root and changes nothing outside the
# user's cache. Usage: edgeprune/devices/webgpu.sh [PYTHON]
set -euo pipefail

readonly PYTHON=${1:-python3}
readonly CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/edgeprune/webgpu
CONSTRAINTS=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/constraints.txt
[[ -f $CONSTRAINTS ]] && PINNED=(-c "$CONSTRAINTS") || PINNED=() # an installed package has none
readonly PINNED

fail() {
    printf 'make webgpu: %s\n' "$*" >&2
    exit 1
}

if [[ -x $CACHE/python ]]; then
    printf 'The environment is there: %s (remove the folder to make it again)\n' "$CACHE"
    exit 0
fi
for tool in apt-get dpkg-deb "$PYTHON"; do
    command -v "$tool" >/dev/null ||
        fail "$tool was not found. Mesa comes from Debian or Ubuntu packages here. Elsewhere install" \
            "Mesa 23 or later with lavapipe, put onnxruntime-webgpu and numpy into a virtual" \
            "environment, and name its python in EDGEPRUNE_GPU_PYTHON"
done

rm -rf "$CACHE"
mkdir -p "$CACHE"/apt/{state/lists/partial,cache/archives/partial} "$CACHE/root"
cd "$CACHE"

# The user's own sources, and on Debian 12 its backports: the Mesa 22.3 of that release is too old.
. /etc/os-release
cp -r /etc/apt/sources.list.d apt/sources.d
[[ -f /etc/apt/sources.list ]] && cp /etc/apt/sources.list apt/sources.d/main.list
release=()
if [[ ${ID:-} == debian && ${VERSION_CODENAME:-} == bookworm ]]; then
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' |
        awk '$2 == "bookworm" && $3 == "main" { print $1; exit }')
    [[ -n $mirror ]] || fail "no source of Debian bookworm in /etc/apt"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s bookworm-backports main\n' \
        "$mirror" >apt/sources.d/backports.list
    release=(--target-release bookworm-backports)
fi
apt() {
    apt-get -qq -o "Dir::State=$CACHE/apt/state" -o "Dir::Cache=$CACHE/apt/cache" \
        -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$CACHE/apt/sources.d" \
        -o Debug::NoLocking=1 -o APT::Sandbox::User= "$@"
}
printf 'Fetching Mesa ...\n'
apt update
apt install --yes --no-install-recommends --download-only "${release[@]}" \
    libvulkan1 mesa-vulkan-drivers
for package in libvulkan1 mesa-vulkan-drivers; do # installed ones are fetched nonetheless
    compgen -G "apt/cache/archives/${package}_*.deb" >/dev/null ||
        (cd apt/cache/archives && apt download "${release[@]}" "$package")
done
for package in apt/cache/archives/*.deb; do
    dpkg-deb --extract "$package" root
done
driver=$(find "$CACHE/root" -name libvulkan_lvp.so -print -quit)
[[ -n $driver ]] || fail "lavapipe is not in the package mesa-vulkan-drivers"
sed "s#\"library_path\": *\"[^\"]*\"#\"library_path\": \"$driver\"#" \
    "$(find root -name 'lvp_icd*.json' -print -quit)" >lavapipe.json
rm -rf apt

printf 'Installing onnxruntime-webgpu ...\n'
"$PYTHON" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check "${PINNED[@]}" onnxruntime-webgpu numpy

cat >python.partial <<END
#!/bin/sh
export VK_DRIVER_FILES='$CACHE/lavapipe.json' MESA_SHADER_CACHE_DIR='$CACHE/shaders'
export LD_LIBRARY_PATH='$(dirname "$driver")'
exec '$CACHE/venv/bin/python' "\$@"
END
chmod +x python.partial
./python.partial -c 'import numpy, onnxruntime as o; assert "WebGpuExecutionProvider" in o.get_available_providers()' ||
    fail "onnxruntime-webgpu does not start"
mv python.partial python
printf 'Made %s. Try: edgeprune profile examples/fashion_mnist/job.toml --device webgpu_software\n' "$CACHE"
