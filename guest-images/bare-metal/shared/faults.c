/* Checks of exceptions. */
#include "checks.h"

void check_fault(struct fault fault, u8 vector, u32 error_code, const char *what)
{
	bool right = fault.taken && fault.vector == vector && fault.error_code == error_code;

	if (right)
		check(true, "%s: exception %u, error code 0x%x", what, vector, error_code);
	else if (fault.taken)
		check(false, "%s: exception %u, error code 0x%x instead of %u, 0x%x", what, fault.vector,
		      fault.error_code, vector, error_code);
	else
		check(false, "%s: no exception instead of %u, error code 0x%x", what, vector, error_code);
}

void check_no_fault(struct fault fault, const char *what)
{
	if (fault.taken)
		check(false, "%s: exception %u, error code 0x%x", what, fault.vector, fault.error_code);
	else
		check(true, "%s: no exception", what);
}
