/*
 * With FUZZ_BLIND in the environment libFuzzer does not hear which edges a run
 * takes. It then mutates its corpus as its random numbers say, and nothing
 * else: the same inputs in the same order, always and everywhere. For which
 * edges a run takes depends on addresses and on time, and what libFuzzer tries
 * next depends on that; a test that fails by chance is none.
 *
 * The linker puts __wrap_X() where the constructors that the compiler makes
 * call X(), with the counters of edges.
 */
#include <stdint.h>
#include <stdlib.h>

void __real___sanitizer_cov_8bit_counters_init(uint8_t *from, uint8_t *to);
void __wrap___sanitizer_cov_8bit_counters_init(uint8_t *from, uint8_t *to);
void __real___sanitizer_cov_pcs_init(const uintptr_t *from,
                                     const uintptr_t *to);
void __wrap___sanitizer_cov_pcs_init(const uintptr_t *from,
                                     const uintptr_t *to);

void __wrap___sanitizer_cov_8bit_counters_init(uint8_t *from, uint8_t *to)
{
    if (!getenv("FUZZ_BLIND")) {
        __real___sanitizer_cov_8bit_counters_init(from, to);
    }
}

void __wrap___sanitizer_cov_pcs_init(const uintptr_t *from, const uintptr_t *to)
{
    if (!getenv("FUZZ_BLIND")) {
        __real___sanitizer_cov_pcs_init(from, to);
    }
}
