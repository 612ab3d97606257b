/* Options, and one process for each test. */
#include "verify.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char usage[] =
	"usage: verbs-verify [options] [TEST...]\n"
	"\n"
	"Moves data through an RDMA device in loopback and checks every byte, completion and error.\n"
	"TEST is the beginning of the names of tests to run; without one all are run.\n"
	"\n"
	"  -d, --device=NAME       use this device (default: the first)\n"
	"  -t, --transport=NAME    only the tests of rc, uc, ud or xrc that move data\n"
	"  -s, --size=BYTES        only messages of this size; may be given up to 16 times\n"
	"  -n, --iterations=N      this many iterations in place of each test's own number\n"
	"  -e, --events            wait for completions on a channel only\n"
	"  -p, --polling           wait for completions by polling only (default: both ways, one after the other)\n"
	"  -x, --errors            only what must fail, be lost or be flushed\n"
	"  -S, --seed=N            decides patterns, alignments and the order of operations (default 1)\n"
	"  -T, --timeout=MS        when something is missed (default 2000 ms of the guest's time)\n"
	"  -l, --list              list the tests and end\n"
	"  -h, --help              show this and end\n"
	"\n"
	"Exit status: 0 if all tests hold, 1 if not, 2 for a bad command line.\n";

struct options options = { .seed = 1, .patience = 2000 };

static const struct test *const groups[] = {
	check_tests, transfer_tests, mixed_tests, fault_tests, loss_tests, event_tests, object_tests,
	extension_tests,
};

static const char *current;
static char activity[160];
static uint64_t messages;
static uint64_t bytes_moved;

void note(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(activity, sizeof(activity), format, arguments);
	va_end(arguments);
}

void count_message(uint64_t bytes)
{
	messages++;
	bytes_moved += bytes;
}

static const char *way(void)
{
	return options.events ? "events" : "polling";
}

void fail_at(const char *file, int line, const char *format, ...)
{
	va_list arguments;
	const char *folder_end = strrchr(file, '/');

	printf("FAILED %s (%s, seed %llu): %s%s", current, way(), (unsigned long long)options.seed, activity,
	       activity[0] ? ": " : "");
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf(" (%s:%d)\n", folder_end ? folder_end + 1 : file, line);
	fflush(NULL);
	_exit(1);
}

/* Runs a test in a process of its own. */
static bool run(const struct test *test)
{
	int status;
	pid_t child;

	fflush(NULL);
	child = fork();
	if (child < 0) {
		perror("verbs-verify: fork");
		exit(1);
	}
	if (child == 0) {
		current = test->name;
		test->run(test);
		printf("ok %s (%s)", test->name, way());
		if (messages)
			printf(": %llu messages, %llu bytes", (unsigned long long)messages,
			       (unsigned long long)bytes_moved);
		printf("\n");
		fflush(NULL);
		_exit(0);
	}
	if (waitpid(child, &status, 0) != child) {
		perror("verbs-verify: waitpid");
		exit(1);
	}
	if (WIFSIGNALED(status))
		printf("FAILED %s (%s): ended by signal %d\n", test->name, way(), WTERMSIG(status));
	return status == 0;
}

static const char *const transports[] = { [RC] = "rc", [UC] = "uc", [UD] = "ud", [XRC] = "xrc" };

/* Which tests are run. */
struct selection {
	char **names;
	int count;
	bool errors;
	/* Of the transports that move data; -1: all tests. */
	int transport;
	bool polling, events;
};

static bool moves_data(const struct test *const group)
{
	return group == transfer_tests || group == mixed_tests;
}

static bool selected(const struct selection *selection, const struct test *group, const struct test *test)
{
	bool named = selection->count == 0;

	for (int i = 0; i < selection->count; i++)
		named |= strncmp(test->name, selection->names[i], strlen(selection->names[i])) == 0;
	if (selection->errors && group != fault_tests && group != loss_tests)
		return false;
	if (selection->transport >= 0 && !(moves_data(group) && (int)test->transport == selection->transport))
		return false;
	return named;
}

static unsigned long long number(const char *text, unsigned long long least, unsigned long long most, const char *what)
{
	char *end;

	errno = 0;
	unsigned long long value = strtoull(text, &end, 0);

	if (errno || end == text || *end || strchr(text, '-') || value < least || value > most) {
		fprintf(stderr, "verbs-verify: %s: %s is not a number from %llu to %llu\n", what, text, least, most);
		exit(2);
	}
	return value;
}

static int transport_named(const char *name)
{
	for (unsigned i = 0; i < sizeof(transports) / sizeof(*transports); i++)
		if (strcmp(name, transports[i]) == 0)
			return i;
	fprintf(stderr, "verbs-verify: there is no transport %s; there are rc, uc, ud and xrc\n", name);
	exit(2);
}

static struct selection parse(int argc, char **argv, bool *list)
{
	static const struct option known[] = {
		{ "device", required_argument, NULL, 'd' },	{ "transport", required_argument, NULL, 't' },
		{ "size", required_argument, NULL, 's' },	{ "iterations", required_argument, NULL, 'n' },
		{ "events", no_argument, NULL, 'e' },		{ "polling", no_argument, NULL, 'p' },
		{ "errors", no_argument, NULL, 'x' },		{ "seed", required_argument, NULL, 'S' },
		{ "timeout", required_argument, NULL, 'T' },	{ "list", no_argument, NULL, 'l' },
		{ "help", no_argument, NULL, 'h' },		{ NULL, 0, NULL, 0 },
	};
	struct selection selection = { .transport = -1 };
	int option;

	while ((option = getopt_long(argc, argv, "d:t:s:n:epxS:T:lh", known, NULL)) != -1) {
		switch (option) {
		case 'd':
			options.device = optarg;
			break;
		case 't':
			selection.transport = transport_named(optarg);
			break;
		case 's':
			if (options.size_count == sizeof(options.sizes) / sizeof(*options.sizes)) {
				fprintf(stderr, "verbs-verify: too many sizes\n");
				exit(2);
			}
			options.sizes[options.size_count++] = number(optarg, 0, 64 << 20, "--size");
			break;
		case 'n':
			options.iterations = number(optarg, 1, 1000000, "--iterations");
			break;
		case 'e':
			selection.events = true;
			break;
		case 'p':
			selection.polling = true;
			break;
		case 'x':
			selection.errors = true;
			break;
		case 'S':
			options.seed = number(optarg, 0, UINT64_MAX, "--seed");
			break;
		case 'T':
			options.patience = number(optarg, 1, 1000000, "--timeout");
			break;
		case 'l':
			*list = true;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs("try verbs-verify --help\n", stderr);
			exit(2);
		}
	}
	if (!selection.events && !selection.polling)
		selection.events = selection.polling = true;
	selection.names = argv + optind;
	selection.count = argc - optind;
	return selection;
}

int main(int argc, char **argv)
{
	bool list = false;
	struct selection selection = parse(argc, argv, &list);
	unsigned passed = 0, failed = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (unsigned i = 0; i < sizeof(groups) / sizeof(*groups); i++) {
		for (const struct test *test = groups[i]; test->name; test++) {
			if (!selected(&selection, groups[i], test))
				continue;
			if (list) {
				puts(test->name);
				passed++;
				continue;
			}
			for (int events = 0; events < 2; events++) {
				if (events ? !selection.events : !selection.polling)
					continue;
				/* Once is enough for the others. */
				if (events && selection.polling && !test->both_ways)
					continue;
				options.events = events;
				if (run(test))
					passed++;
				else
					failed++;
			}
		}
	}
	if (list && passed)
		return 0;
	if (passed + failed == 0) {
		fprintf(stderr, "verbs-verify: no test has such a name; --list shows them\n");
		return 2;
	}
	printf("verbs-verify: %u tests passed, %u failed\n", passed, failed);
	return failed ? 1 : 0;
}
