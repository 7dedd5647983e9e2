#!/bin/sh
# Boots systemd where nothing of it can reach this machine: the root is read-only, everything that
# systemd and the service write lies in memory, and no unit but the test's is known.
# Arguments: the folder with units, passwd, group and the certificate; the checkout; its python.
set -e
stage=$1 checkout=$2 python=$3
mount --make-rprivate /
mount -o remount,bind,ro /
mount -t tmpfs -o mode=755 tmpfs /opt
cp -a "$stage" /opt/stage
mount -t tmpfs -o mode=755 tmpfs /mnt
# systemd sets up its console: /dev must not be the machine's.
mkdir /mnt/dev
mount -t tmpfs -o mode=755 tmpfs /mnt/dev
for name in null zero full random urandom tty; do
    touch /mnt/dev/$name
    mount --bind /dev/$name /mnt/dev/$name
done
mkdir /mnt/dev/shm /mnt/dev/pts
ln -s /proc/self/fd /mnt/dev/fd
mount -t tmpfs -o mode=1777 tmpfs /mnt/dev/shm
mkdir -m 1777 /opt/cache
# The interpreter may lie in a home, and the service sees none.
mkdir -p /opt/python /opt/checkout /opt/quicbaton/bin /opt/quicbaton/lib
mount --bind "$("$python" -c 'import sys; print(sys.base_prefix)')" /opt/python
mount --bind "$checkout" /opt/checkout
version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p /opt/quicbaton/lib/"$version" /opt/packages
mount --bind "$packages" /opt/packages
ln -s /opt/packages /opt/quicbaton/lib/"$version"/site-packages
printf 'home = /opt/python/bin\ninclude-system-site-packages = false\n' >/opt/quicbaton/pyvenv.cfg
ln -s /opt/python/bin/"$version" /opt/quicbaton/bin/python
cat >/opt/quicbaton/bin/quicbaton <<'PROGRAM'
#!/bin/sh
export PYTHONPATH=/opt/checkout/src LD_LIBRARY_PATH=/opt/python/lib PYTHONPYCACHEPREFIX=/opt/cache
unset PYTHONDONTWRITEBYTECODE
exec /opt/quicbaton/bin/python -m quicbaton "$@"
PROGRAM
cat >/opt/quicbaton/bin/sudo <<'PROGRAM'
#!/bin/sh
[ "$1" != -u ] || { who="--reuid=$2 --regid=$2 --clear-groups"; shift 2; }
exec setpriv ${who:---reuid=0} -- "$@"
PROGRAM
chmod 755 /opt/quicbaton/bin/quicbaton /opt/quicbaton/bin/sudo
# What the service has of its own.
mount --bind /opt/stage/passwd /etc/passwd
mount --bind /opt/stage/group /etc/group
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/www
cp /opt/stage/file /srv/www/
for folder in /var/lib /var/log /run; do mount -t tmpfs -o mode=755 tmpfs $folder; done
mkdir /run/lock
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mount -t proc proc /proc
mount -t tmpfs tmpfs /sys
mkdir -p /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --move /mnt/dev /dev
ip link set lo up 2>/dev/null || true
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=other \
    SYSTEMD_UNIT_PATH=/opt/stage/units SYSTEMD_GENERATOR_PATH=/nowhere \
    SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/nowhere \
    "$(command -v /usr/lib/systemd/systemd || echo /lib/systemd/systemd)" --system --unit=test.target \
    --log-target=console --log-level=info --show-status=no
