/*
 * The lexer inside of the framer: one byte, one step.
 */
#ifndef VARVE_QMP_FRAMER_LEX_H
#define VARVE_QMP_FRAMER_LEX_H

#include <stdbool.h>
#include "framer.h"

enum lex {
    LEX_START,
    LEX_DOUBLE,     /* in "..." */
    LEX_DOUBLE_ESC, /* after a backslash in it */
    LEX_SINGLE,
    LEX_SINGLE_ESC,
    LEX_MINUS,
    LEX_ZERO,
    LEX_INT,
    LEX_POINT,
    LEX_FRACTION,
    LEX_E,
    LEX_E_SIGN,
    LEX_EXPONENT,
    LEX_WORD,
    LEX_RECOVERY, /* after a stray byte, up to structure or a new line */
    LEX_SKIP,     /* over a text beyond the limits, to its end or a new line */
};

/* What one byte does in a lexer state. */
enum step {
    STEP_TAKEN,
    STEP_TOKEN,       /* the byte ends a token and is part of it */
    STEP_TOKEN_AGAIN, /* the token ended before the byte */
    STEP_STRAY,
};

/* One of {}[]:, */
bool framer_is_structure(unsigned char c);
/* Moves f->lex on by a byte. Not in LEX_RECOVERY or LEX_SKIP. */
enum step framer_lex_byte(struct framer *f, unsigned char c);

#endif
