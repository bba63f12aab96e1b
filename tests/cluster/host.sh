#!/bin/bash
# The first process of a host: makes a machine of its own out of its new namespaces (network, mounts, processes, host name, IPC).
# Environment: NAME, ADDRESS (with /PREFIX), GATEWAY, LOGIN (a user), AUTHORIZED (its public key), PROFILE (login shells),
# ENVIRONMENT (the folder of the Python environment, as the image's ~/venv).
# It is bash, as a first process has to reap what others leave: `ray stop` waits 16 seconds for zombies.
set -euo pipefail

# The machine's disk: a private copy, kept in memory, of the file system that the test runs on.
mount --make-rprivate /
disk=/mnt
mount -t tmpfs -o size=3g disk $disk
mkdir -p $disk/changes/tmp $disk/work $disk/root
chmod 1777 $disk/changes/tmp
for left in /tmp/ray*; do # of the tester's own clusters: such a device file hides what has its name
    [ ! -e "$left" ] || mknod "$disk/changes$left" c 0 0
done
mount -t overlay overlay -o lowerdir=/,upperdir=$disk/changes,workdir=$disk/work $disk/root
cd $disk/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs -o size=1g shm dev/shm
[ -x ".$ENVIRONMENT/bin/python" ] || { echo "$ENVIRONMENT is on another file system than /" >&2; exit 1; }
mkdir -p old
pivot_root . old
cd /
umount --lazy /old

hostname "$NAME"
printf '127.0.0.1 localhost\n%s %s\n' "${ADDRESS%/*}" "$NAME" > /etc/hosts
printf '%s\n' "$PROFILE" > /etc/profile.d/image.sh
rm -rf /root/.ssh /root/.ray /root/.aws /root/.bash* /root/.profile # the tester's own
chmod 755 /root # the Python interpreter may lie below it
if [ "$LOGIN" != root ]; then
    useradd --create-home --shell /bin/bash "$LOGIN"
    usermod --password '*' "$LOGIN" # SSH refuses an account that is locked
fi
home=$(getent passwd "$LOGIN" | cut -d: -f6)
mkdir -p "$home/.ssh" /run/sshd
printf '%s\n' "$AUTHORIZED" > "$home/.ssh/authorized_keys"
ln -s "$ENVIRONMENT" "$home/venv"
chown -R "$LOGIN:" "$home/.ssh"

ip link set lo up
until ip link show eth0 > /dev/null 2>&1; do sleep 0.05; done
ip address add "$ADDRESS" dev eth0
ip link set eth0 up
ip route add default via "$GATEWAY"

ssh-keygen -q -t ed25519 -N '' -f /run/sshd/host_key
/usr/sbin/sshd -D -e -f /dev/null -h /run/sshd/host_key -o PidFile=none -o UsePAM=no -o StrictModes=no \
    -o PasswordAuthentication=no -o MaxStartups=100 -o MaxSessions=100 2> /var/log/sshd.log &
ulimit -n "$(ulimit -Hn)"
touch /run/booted
trap 'exit 0' TERM
while :; do wait -n || sleep 1; done
