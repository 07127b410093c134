/*
 * What the commands and events of this folder know of monitors.
 */
#ifndef VARVE_QMP_SESSION_H
#define VARVE_QMP_SESSION_H

#include <glib.h>
#include <stdbool.h>
#include "qmp/monitor.h"

struct json_object;
struct loop;

/* The monitor whose command this coroutine runs; NULL in any other. */
struct monitor *monitor_current(void);
/* Ends the negotiation. */
void monitor_set_negotiated(struct monitor *m, bool oob);
/* Queues a complete line for every monitor that has negotiated. */
void monitors_broadcast(struct json_object *message);
/* As monitors_set_quit() was told; does nothing without. */
void monitors_quit(void);

struct loop *monitors_main_loop(void);

/* Events of the block layer and of the machine (qmp/events.c); on the graph's
 * loop. */
void block_events_begin(void);
void block_events_end(void);

/* Version and capabilities, as the greeting shows them. */
struct version_info *qmp_version_new(void);

#endif
