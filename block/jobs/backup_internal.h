/*
 * What the backup job and the commands that start it share.
 */
#ifndef VARVE_BLOCK_JOBS_BACKUP_INTERNAL_H
#define VARVE_BLOCK_JOBS_BACKUP_INTERNAL_H

#include "block/backup.h"

/* Everything that can be refused without knowing the target; completes
 * params->job_id. */
bool backup_check_start(struct backup_params *params, GError **error);

#endif
