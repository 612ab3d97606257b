/* Spin locks. */
#include "checks.h"

void lock(lock_t *lock)
{
	while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE))
		pause();
}

void unlock(lock_t *lock)
{
	__atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}
