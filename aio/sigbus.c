/*
 * The handler of SIGBUS, and the table of ranges that it may look at.
 *
 * The table has a fixed number of slots, each written with one atomic store, so
 * the handler needs no lock. The handler is installed when a range comes and
 * ours is not there, be it because some library has replaced it; it stays.
 * Whatever it cannot mend gets the default action: the access happens again,
 * and ends the program with a core that shows the place.
 */
#include "aio/sigbus.h"

#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>

#define MAX_RANGES 4096

static struct sigbus_range *ranges[MAX_RANGES];
static unsigned used_slots; /* slots from here on were never used */
unsigned sigbus_lost_pages;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of adding */

static struct sigbus_range *range_of(uintptr_t addr)
{
    unsigned n = __atomic_load_n(&used_slots, __ATOMIC_ACQUIRE);

    for (unsigned i = 0; i < n; i++) {
        struct sigbus_range *r = __atomic_load_n(&ranges[i], __ATOMIC_ACQUIRE);

        if (r && addr - (uintptr_t)r->base < r->bytes) {
            return r;
        }
    }
    return NULL;
}

static bool mend(uintptr_t addr)
{
    struct sigbus_range *r = range_of(addr);

    if (!r) {
        return false;
    }
    char *page = r->base + ((addr - (uintptr_t)r->base) &
                            ~(uintptr_t)(r->page_bytes - 1));

    char *zeroes =
        mmap(page, r->page_bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (zeroes != page) {
        return false;
    }
    __atomic_store_n(&r->lost, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&sigbus_lost_pages, 1, __ATOMIC_RELEASE);
    return true;
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    int saved = errno;

    if (info->si_code != BUS_ADRERR || !mend((uintptr_t)info->si_addr)) {
        signal(SIGBUS, SIG_DFL);
    }
    errno = saved;
}

static void install(void)
{
    struct sigaction sa = {
        .sa_sigaction = on_sigbus,
        .sa_flags = SA_SIGINFO | SA_RESTART,
    };
    struct sigaction now;

    if (sigaction(SIGBUS, NULL, &now) == 0 && now.sa_flags & SA_SIGINFO &&
        now.sa_sigaction == on_sigbus) {
        return;
    }
    sigemptyset(&sa.sa_mask);
    sigaction(SIGBUS, &sa, NULL);
}

bool sigbus_range_add(struct sigbus_range *r)
{
    unsigned i = 0;

    r->lost = 0;
    pthread_mutex_lock(&lock);
    install();
    while (i < used_slots && ranges[i]) {
        i++;
    }
    if (i < MAX_RANGES) {
        __atomic_store_n(&ranges[i], r, __ATOMIC_RELEASE);
        if (i == used_slots) {
            __atomic_store_n(&used_slots, i + 1, __ATOMIC_RELEASE);
        }
    }
    pthread_mutex_unlock(&lock);
    return i < MAX_RANGES;
}

void sigbus_range_remove(struct sigbus_range *r)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < used_slots; i++) {
        if (ranges[i] == r) {
            __atomic_store_n(&ranges[i], NULL, __ATOMIC_RELEASE);
        }
    }
    pthread_mutex_unlock(&lock);
}

bool sigbus_range_lost(const struct sigbus_range *r)
{
    return __atomic_load_n(&r->lost, __ATOMIC_RELAXED);
}
