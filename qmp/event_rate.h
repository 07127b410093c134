/*
 * Events that may come as often as requests fail: at most one a second.
 */
#ifndef VARVE_QMP_EVENT_RATE_H
#define VARVE_QMP_EVENT_RATE_H

#include <stdbool.h>
#include <stdint.h>
#include "qapi/types.h"

typedef void event_emit_fn(enum qapi_event event, const void *data,
                           int64_t time_us);

/* True if the event is not to be sent now: the last one of its second will be
 * sent by emit when the second is over. Main loop. */
bool event_rate_hold(enum qapi_event event, const void *data, int64_t time_us,
                     event_emit_fn *emit);
/* Forgets what is held. */
void event_rate_end(void);

#endif
