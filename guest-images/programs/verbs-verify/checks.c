/* The checks themselves, checked: each wrong byte, wherever it lies, ends a test. No device is needed. */
#include "verify.h"

#include <errno.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE 3001
#define SLACK_BYTES 50
#define KEY 77

/* Whether the checks of a message's memory end a process in which that byte has been changed. */
static bool notices(const struct layout *layout, char *byte)
{
	int status;
	pid_t child;

	fflush(NULL);
	child = fork();
	check(child >= 0, "fork: errno %d", errno);
	if (child == 0) {
		/* The complaint is expected. */
		check(freopen("/dev/null", "w", stdout), "/dev/null: errno %d", errno);
		*byte ^= 0x10;
		layout_check(layout, 0, SIZE, KEY, PATTERN, "message");
		layout_check(layout, SIZE, SIZE + SLACK_BYTES, KEY, BEFORE, "beyond it");
		layout_check_guards(layout, "message");
		_exit(0);
	}
	check(waitpid(child, &status, 0) == child, "waitpid: errno %d", errno);
	return WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

/* Some bytes of the message, of what is beyond it, and of the guards around each piece. */
static void run_wrong_bytes(const struct test *test)
{
	static char memory[SIZE + LAYOUT_ROOM];
	static char untouched;
	struct random random = { options.seed };
	struct ibv_mr key = { .lkey = 1 };
	struct arena arena = { .base = memory, .size = sizeof(memory), .mr = &key };
	struct layout layout;

	layout_place(&layout, &arena, 0, SIZE + SLACK_BYTES, test->variant, &random);
	layout_fill(&layout, 0, SIZE + SLACK_BYTES, KEY, BEFORE);
	check(notices(&layout, &untouched), "a message that has not arrived is taken for one that has");
	layout_fill(&layout, 0, SIZE, KEY, PATTERN);
	check(!notices(&layout, &untouched), "a message that has arrived is complained of");
	for (int i = 0; i < layout.count; i++) {
		char *base = (char *)(uintptr_t)layout.pieces[i].addr;
		int64_t length = layout.pieces[i].length;
		int64_t places[] = { -GUARD, -1, 0, length / 2, length - 1, length, length + GUARD - 1 };

		for (unsigned at = 0; at < sizeof(places) / sizeof(*places); at++)
			check(notices(&layout, base + places[at]), "byte %lld of piece %d of %lld bytes: not noticed",
			      (long long)places[at], i, (long long)length);
	}
	/* The messages of two iterations or directions must not be taken for each other. */
	check(pattern_key(1, 0) != pattern_key(1, 1) && pattern_key(1, 0) != pattern_key(2, 0), "patterns are alike");
}

const struct test check_tests[] = {
	{ .name = "check.notices-one-piece", .run = run_wrong_bytes, .variant = 1 },
	{ .name = "check.notices-five-pieces", .run = run_wrong_bytes, .variant = MAX_PIECES },
	{ .name = NULL },
};
