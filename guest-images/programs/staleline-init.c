/*
 * PID 1 of every guest (rdinit=/staleline/init): mounts the kernel's file systems, loads the modules named in
 * /staleline/modules, brings the loopback interface up and says that it is ready. With a file /staleline/work it
 * then waits for a command on the channel (channel.h, on /dev/ttyS1), so that everything up to here is the same
 * whatever is to be run, and runs it with its output framed on the channel; without that file it runs an
 * interactive shell on the console. Whatever happens it ends by powering the machine off: PID 1 never exits, which would panic.
 */
#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/poll.h>
#include <linux/reboot.h>
#include <linux/sockios.h>
#include <linux/stat.h>
#include <linux/wait.h>

#include "channel.h"
#include "syscalls.h"

#define SIGCHLD 17
#define AF_INET 2
#define SOCK_DGRAM 2
#define IFF_UP 1
#define MAX_ARGUMENTS 1024
#define MAX_LIST (128 * 1024)

static int channel = -1;

static char *const environment[] = {
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root",
	"TERM=vt102",
	"USER=root",
	NULL,
};

static long write_all(int fd, const void *data, size_t size)
{
	const char *at = data;

	while (size) {
		long done = sys(__NR_write, fd, at, size);

		if (done == -EINTR)
			continue;
		if (done <= 0)
			return done;
		at += done;
		size -= (size_t)done;
	}
	return 0;
}

static void send_frame(uint8_t type, const void *payload, size_t size)
{
	static uint8_t frame[5 + CHANNEL_MAX_PAYLOAD];

	if (channel < 0)
		return;
	if (size > CHANNEL_MAX_PAYLOAD)
		size = CHANNEL_MAX_PAYLOAD;
	frame[0] = CHANNEL_MAGIC;
	frame[1] = type;
	frame[2] = (uint8_t)size;
	frame[3] = (uint8_t)(size >> 8);
	frame[4] = (uint8_t)(0xff ^ type ^ frame[2] ^ frame[3]);
	memcpy(frame + 5, payload, size);
	write_all(channel, frame, 5 + size);
}

static void send_number(uint8_t type, uint32_t value)
{
	uint8_t bytes[4] = { (uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
			     (uint8_t)(value >> 24) };

	send_frame(type, bytes, sizeof(bytes));
}

/* "what 'name': reason", as a line on the console and, if `fatal`, as an error frame. */
static void report(const char *what, const char *name, long error, int fatal)
{
	char line[512];
	size_t used = append(line, sizeof(line), 0, "staleline-init: ");

	used = append(line, sizeof(line), used, what);
	if (name) {
		used = append(line, sizeof(line), used, " '");
		used = append(line, sizeof(line), used, name);
		used = append(line, sizeof(line), used, "'");
	}
	if (error == -ENOENT || error == -ENOTDIR) {
		used = append(line, sizeof(line), used, ": not found");
	} else if (error == -EACCES) {
		used = append(line, sizeof(line), used, ": permission denied");
	} else if (error == -ENOEXEC) {
		used = append(line, sizeof(line), used, ": not an executable");
	} else if (error < 0) {
		used = append(line, sizeof(line), used, ": error ");
		used = append_number(line, sizeof(line), used, (unsigned long)-error);
	}
	if (fatal)
		send_frame(CHANNEL_ERROR, line, used);
	used = append(line, sizeof(line), used, "\n");
	write_all(2, line, used);
}

static void __attribute__((noreturn)) power_off(void)
{
	if (channel >= 0)
		sys(__NR_ioctl, channel, TCSBRK, 1);
	sys(__NR_ioctl, 1, TCSBRK, 1);
	sys(__NR_sync);
	sys(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, 0);
	report("the machine did not power off", NULL, 0, 0);
	sys(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_HALT, 0);
	for (;;)
		sys(__NR_pause);
}

/* Makes `path` descriptors 0, 1 and 2. */
static int use_as_console(const char *path)
{
	long fd = sys(__NR_open, path, O_RDWR | O_NOCTTY, 0);

	if (fd < 0)
		return 0;
	for (int target = 0; target < 3; target++)
		if (fd != target)
			sys(__NR_dup2, fd, target);
	if (fd > 2)
		sys(__NR_close, fd);
	return 1;
}

static void make_node(const char *path, unsigned major, unsigned minor)
{
	sys(__NR_mknod, path, S_IFCHR | 0600, (major << 8) | minor);
}

static void mount(const char *kind, const char *where)
{
	sys(__NR_mkdir, where, 0755);
	sys(__NR_mount, kind, where, kind, 0, 0);
}

static void mount_all(void)
{
	mount("proc", "/proc");
	mount("sysfs", "/sys");
	sys(__NR_mkdir, "/dev", 0755);
	long result = sys(__NR_mount, "devtmpfs", "/dev", "devtmpfs", 0, 0);
	if (result < 0 && result != -EBUSY) {
		make_node("/dev/console", 5, 1);
		make_node("/dev/null", 1, 3);
		make_node("/dev/ttyS0", 4, 64);
		make_node("/dev/ttyS1", 4, 65);
	}
	mount("devpts", "/dev/pts");
	mount("tmpfs", "/dev/shm");
	mount("tmpfs", "/tmp");
	sys(__NR_chmod, "/tmp", 01777);
	mount("tmpfs", "/run");
	mount("debugfs", "/sys/kernel/debug");
	sys(__NR_mkdir, "/root", 0700);
}

static void open_channel(void)
{
	struct termios raw = { .c_cflag = B115200 | CS8 | CREAD | CLOCAL };

	raw.c_cc[VMIN] = 1;
	channel = (int)sys(__NR_open, "/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC, 0);
	if (channel >= 0 && sys(__NR_ioctl, channel, TCSETS, &raw) < 0) {
		sys(__NR_close, channel);
		channel = -1;
	}
}

static void raise_loopback(void)
{
	struct {
		char name[16];
		int16_t flags;
		char rest[22];
	} request = { .name = "lo" };
	int fd = (int)sys(__NR_socket, AF_INET, SOCK_DGRAM, 0);

	if (fd < 0)
		return;
	if (sys(__NR_ioctl, fd, SIOCGIFFLAGS, &request) >= 0) {
		request.flags |= IFF_UP;
		sys(__NR_ioctl, fd, SIOCSIFFLAGS, &request);
	}
	sys(__NR_close, fd);
}

/* Reads a whole file into `buffer`, terminated; returns its size, or negative errno. */
static long read_file(const char *path, char *buffer, size_t size)
{
	long fd = sys(__NR_open, path, O_RDONLY | O_CLOEXEC, 0);
	size_t used = 0;

	if (fd < 0)
		return fd;
	while (used < size - 1) {
		long done = sys(__NR_read, fd, buffer + used, size - 1 - used);

		if (done <= 0)
			break;
		used += (size_t)done;
	}
	sys(__NR_close, fd);
	buffer[used] = 0;
	return (long)used;
}

/* /staleline/modules: one path a line, already in dependency order. */
static void load_modules(void)
{
	static char list[MAX_LIST];
	char *path = list;

	if (read_file("/staleline/modules", list, sizeof(list)) <= 0)
		return;
	while (*path) {
		char *end = path;

		while (*end && *end != '\n')
			end++;
		int last = !*end;

		*end = 0;
		if (*path) {
			long fd = sys(__NR_open, path, O_RDONLY | O_CLOEXEC, 0);
			long result = fd < 0 ? fd : sys(__NR_finit_module, fd, "", 0);

			if (fd >= 0)
				sys(__NR_close, fd);
			if (result < 0 && result != -EEXIST)
				report("cannot load module", path, result, 0);
		}
		if (last)
			break;
		path = end + 1;
	}
}

static void say_ready(void)
{
	static const char line[] = "staleline: ready\n";

	write_all(1, line, sizeof(line) - 1);
	send_frame(CHANNEL_READY, "", 0);
}

/* Reads `size` bytes of the channel; false if it ends or fails. */
static int receive(void *data, size_t size)
{
	char *at = data;

	while (size) {
		long done = sys(__NR_read, channel, at, size);

		if (done == -EINTR)
			continue;
		if (done <= 0)
			return 0;
		at += done;
		size -= (size_t)done;
	}
	return 1;
}

/* Waits for a frame, skipping what is not part of one; returns its type and fills in `length`, or returns 0. */
static uint8_t receive_header(size_t *length)
{
	uint8_t header[5];

	do {
		if (!receive(header, 1))
			return 0;
	} while (header[0] != CHANNEL_MAGIC);
	if (!receive(header + 1, sizeof(header) - 1))
		return 0;
	*length = header[2] | (size_t)header[3] << 8;
	if (header[4] != (uint8_t)(0xff ^ header[1] ^ header[2] ^ header[3]) || *length > CHANNEL_MAX_PAYLOAD)
		return 0;
	return header[1];
}

/* Waits for the command on the channel; returns how many arguments it has, 0 if nothing can be run. */
static int take_work(char **argv)
{
	static char text[MAX_LIST];
	size_t used = 0, length;
	int arguments = 0;
	uint8_t type;

	while ((type = receive_header(&length)) == CHANNEL_ARGUMENTS) {
		if (length > sizeof(text) - 1 - used) {
			report("the command is too long", NULL, 0, 1);
			return 0;
		}
		if (!receive(text + used, length))
			break;
		used += length;
	}
	if (type != CHANNEL_RUN) {
		report("no sound request on the channel", NULL, 0, 1);
		return 0;
	}
	for (size_t at = 0; at < used; at++) {
		if (arguments == MAX_ARGUMENTS) {
			report("the command has too many arguments", NULL, 0, 1);
			return 0;
		}
		argv[arguments++] = text + at;
		while (at < used && text[at])
			at++;
	}
	if (arguments == 0)
		report("the command is empty", NULL, 0, 1);
	return arguments;
}

/* execve along PATH; returns the error that a shell would report. */
static long execute(char *const *argv)
{
	static const char *const directories[] = { "/usr/local/sbin/", "/usr/local/bin/", "/usr/sbin/",
						   "/usr/bin/",	       "/sbin/",	  "/bin/" };
	long error = -ENOENT;
	char path[1024];

	if (has_char(argv[0], '/'))
		return sys(__NR_execve, argv[0], argv, environment);
	for (size_t i = 0; i < sizeof(directories) / sizeof(directories[0]); i++) {
		size_t used = append(path, sizeof(path), 0, directories[i]);

		append(path, sizeof(path), used, argv[0]);
		long result = sys(__NR_execve, path, argv, environment);
		if (result != -ENOENT && result != -ENOTDIR)
			error = result;
	}
	return error;
}

static void send_status(int status)
{
	if ((status & 0x7f) == 0)
		send_number(CHANNEL_EXIT, (uint32_t)(status >> 8) & 0xff);
	else
		send_number(CHANNEL_SIGNAL, (uint32_t)status & 0x7f);
}

static void __attribute__((noreturn)) command_child(char *const *argv, int out, int err)
{
	long null = sys(__NR_open, "/dev/null", O_RDONLY, 0);

	sys(__NR_setsid);
	if (null < 0)
		sys(__NR_close, 0);
	else
		sys(__NR_dup2, null, 0);
	sys(__NR_dup2, out, 1);
	sys(__NR_dup2, err, 2);
	long error = execute(argv);
	report("cannot run", argv[0], error, 0);
	sys(__NR_exit_group, error == -ENOENT || error == -ENOTDIR ? 127 : 126);
	__builtin_unreachable();
}

/* Forwards what can be read now; false at the end of the stream. */
static int forward(int fd, uint8_t type)
{
	static char buffer[CHANNEL_MAX_PAYLOAD];
	long done = sys(__NR_read, fd, buffer, sizeof(buffer));

	if (done > 0)
		send_frame(type, buffer, (size_t)done);
	return done > 0 || done == -EINTR;
}

static void run_command(char *const *argv)
{
	int out[2], err[2], status = 0;

	if (sys(__NR_pipe2, out, O_CLOEXEC) < 0 || sys(__NR_pipe2, err, O_CLOEXEC) < 0) {
		report("cannot make pipes for", argv[0], 0, 1);
		return;
	}
	long pid = sys(__NR_clone, SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		command_child(argv, out[1], err[1]);
	sys(__NR_close, out[1]);
	sys(__NR_close, err[1]);
	if (pid < 0) {
		report("cannot fork for", argv[0], pid, 1);
		return;
	}

	/* Kernels before 5.3 have no pidfd: there the child's end is noticed by looking every 10 ms. */
	long pidfd = sys(__NR_pidfd_open, pid, 0);
	struct pollfd waits[3] = {
		{ .fd = out[0], .events = POLLIN },
		{ .fd = err[0], .events = POLLIN },
		{ .fd = pidfd < 0 ? -1 : (int)pidfd, .events = POLLIN },
	};
	static const uint8_t types[2] = { CHANNEL_STDOUT, CHANNEL_STDERR };

	for (int ended = 0;;) {
		/* Once the command has ended only what is already in the pipes counts: a process it left behind may
		 * hold them open for ever. */
		long ready = sys(__NR_poll, waits, 3, ended ? 0 : pidfd < 0 ? 10 : -1);
		int moved = 0;

		for (int i = 0; i < 2 && ready > 0; i++) {
			if (!(waits[i].revents & (POLLIN | POLLHUP | POLLERR)))
				continue;
			if (forward(waits[i].fd, types[i]))
				moved = 1;
			else
				waits[i].fd = -1;
		}
		if (ended && !moved)
			break;
		if (!ended && sys(__NR_wait4, pid, &status, WNOHANG, 0) == pid) {
			ended = 1;
			waits[2].fd = -1;
		}
	}
	send_status(status);
}

/* /dev/console cannot be a controlling terminal: job control needs the tty behind it. */
static void open_terminal(void)
{
	char names[128], path[160];
	long size = read_file("/sys/class/tty/console/active", names, sizeof(names));
	char *last = names;

	if (size > 0) {
		for (char *at = names; *at; at++) {
			if (*at == ' ')
				last = at + 1;
			if (*at == '\n')
				*at = 0;
		}
		append(path, sizeof(path), append(path, sizeof(path), 0, "/dev/"), last);
		if (use_as_console(path))
			return;
	}
	if (!use_as_console("/dev/ttyS0"))
		use_as_console("/dev/console");
}

static void run_shell(void)
{
	static char *const candidates[][4] = {
		{ "/bin/sh", NULL },	      { "/bin/busybox", "sh", NULL }, { "/usr/bin/busybox", "sh", NULL },
		{ "/usr/bin/sh", NULL }, { "/bin/bash", NULL },
	};
	int status = 0;
	long pid = sys(__NR_clone, SIGCHLD, 0, 0, 0, 0);

	if (pid == 0) {
		sys(__NR_setsid);
		open_terminal();
		sys(__NR_ioctl, 0, TIOCSCTTY, 1);
		for (size_t i = 0; i < sizeof(candidates) / sizeof(candidates[0]); i++)
			sys(__NR_execve, candidates[i][0], candidates[i], environment);
		report("no shell in this initramfs", NULL, 0, 0);
		sys(__NR_exit_group, 127);
	}
	if (pid < 0) {
		report("cannot fork for a shell", NULL, pid, 1);
		return;
	}
	while (sys(__NR_wait4, -1, &status, 0, 0) != pid)
		;
	send_status(status);
}

__attribute__((used, noreturn)) static void start(void)
{
	static char *argv[MAX_ARGUMENTS + 1];

	use_as_console("/dev/console");
	mount_all();
	use_as_console("/dev/console");
	sys(__NR_chdir, "/");
	open_channel();
	load_modules();
	raise_loopback();

	if (sys(__NR_access, "/staleline/work", 0) < 0) {
		say_ready();
		run_shell();
	} else if (channel < 0) {
		report("no /dev/ttyS1 (second serial port): cannot be told what to run", NULL, 0, 0);
	} else {
		say_ready();
		if (take_work(argv))
			run_command(argv);
	}
	power_off();
}

__asm__(".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	and $-16, %rsp\n"
	"	call start\n"
	"	hlt\n");
