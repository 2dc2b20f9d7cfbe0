#!/usr/bin/env bash
# Make a base image out of Debian packages, for machines that can pull none from a registry.
# Usage: scripts/make_base.sh [TAG]          MIRROR=… for another Debian mirror than this machine's apt uses
# Does nothing where TAG was made by this same recipe. The tar is sorted and carries no times, so that a base that is
# made again is the same image and no layer above it is built again.
# Needs: root, debootstrap, a Docker engine and a Debian mirror.
set -euo pipefail
tag=${1:-kennel-base:bookworm}
suite=bookworm # Python 3.11, which the locks are for
packages=ca-certificates,python3,python3-venv,python3-pip,libgomp1
cache=${DEBOOTSTRAP_CACHE:-/var/cache/kennel-debs}

fail() { echo "make base: $*" >&2; exit 1; }
recipe=$(sha256sum "$0" | cut -c1-16)
if [ "$(docker image inspect -f '{{index .Config.Labels "org.kennel.recipe"}}' "$tag" 2>/dev/null)" = "$recipe" ]; then
  echo "base image $tag is up to date"
  exit 0
fi
[ "$(id -u)" = 0 ] || fail "debootstrap must run as root: run it with sudo, or set BASE_IMAGE to an image you can pull"
command -v debootstrap >/dev/null || fail "debootstrap is missing: install the package debootstrap"
docker version >/dev/null 2>&1 || fail "no Docker engine answers: start one"
apt_sources=$(cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true)
mirror=${MIRROR:-$(sed -nE 's/^URIs:[[:space:]]*([^ ]+).*/\1/p; s/^deb (\[[^]]*\] )?([^ ]+) .*/\2/p' <<<"$apt_sources" | head -n 1)}
[ -n "$mirror" ] || fail "apt's sources name no Debian mirror: set MIRROR"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$cache"
echo "making $tag from the Debian packages of $suite (a minute or two)"
debootstrap --variant=minbase --merged-usr --cache-dir="$cache" --include="$packages" "$suite" "$root" "$mirror" >"$work/log" 2>&1 \
  || { tail -n 20 "$work/log" >&2; fail "debootstrap failed (its last lines are above)"; }
# As slim images do: no documentation but every package's copyright and licence, no locales, no package lists; nothing that
# differs from run to run.
{ printf 'path-exclude /usr/share/%s/*\n' doc man locale; echo 'path-include /usr/share/doc/*/copyright'; } \
  >"$root/etc/dpkg/dpkg.cfg.d/slim"
find "$root/usr/share/doc" -mindepth 2 ! -type d ! -name copyright -delete
find "$root/usr/share/doc" -mindepth 1 -type d -empty -delete
rm -rf "$root"/usr/share/{man,locale,info}/* "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* \
  "$root"/var/cache/ldconfig/* "$root"/var/cache/debconf/*-old "$root"/etc/machine-id
find "$root/usr/lib" -name __pycache__ -prune -exec rm -rf {} +
rm -f "$root/usr/lib/python3.11/EXTERNALLY-MANAGED"
tar --numeric-owner --sort=name --mtime=@0 -C "$root" -c . | docker import \
  --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
  --change 'CMD ["python3"]' --change "LABEL org.kennel.recipe=$recipe" - "$tag" >/dev/null
docker image inspect -f "made $tag ({{.Size}} bytes)" "$tag"
