/*
 * What the backup commands and the backup actions of transactions share.
 */
#ifndef VARVE_QMP_BACKUP_H
#define VARVE_QMP_BACKUP_H

#include <glib.h>
#include <stdbool.h>
#include "qapi/types.h"

/* A backup's target comes to the loop of its source, if it can; with the change
 * lock, on any loop. Suspends. */
bool co_backup_join(const struct blockdev_backup *args, GError **error);

#endif
