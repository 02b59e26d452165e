/* optable.c - the rows of ops.def, compiled.  Const data, no code. */
#include "ops.h"
#include "tcg.h"

/* The words of the flags column. */
enum {
	R0 = F_R0, W0 = F_W0, RMW = F_R0 | F_W0, W1 = F_W1, LOCKOK = F_LOCKOK, D64 = F_D64,
	F64 = F_F64, I64 = F_I64, O64 = F_O64, ENDS = F_ENDS, PRIV = F_PRIV, ALIGN = F_ALIGN,
	REP = F_REP, NOMEM = F_NOMEM, PROT = F_PROT,
};

/* The words of the fx column: RFLAGS bits read (or passed through), written, left undefined. */
enum { FL_ZSP = FL_ZF | FL_SF | FL_PF,
       FL_SYSTEM = FL_ARITH | FL_DF | FL_IF | FL_TF | FL_IOPL | FL_NT };
#define FX(read, write, undef) .fl_read = (read), .fl_write = (write), .fl_undef = (undef)
#define FX_NONE FX(0, 0, 0)
#define FX_ARITH FX(0, FL_ARITH, 0)
#define FX_ADC FX(FL_CF, FL_ARITH, 0)
#define FX_LOGIC FX(0, FL_ARITH & ~FL_AF, FL_AF)
#define FX_INCDEC FX(0, FL_ARITH & ~FL_CF, 0)
#define FX_ROT1 FX(0, FL_CF | FL_OF, 0)
#define FX_ROTN FX(FL_CF | FL_OF, FL_CF, FL_OF) /* a count of 0 leaves all, as below */
#define FX_RC1 FX(FL_CF, FL_CF | FL_OF, 0)
#define FX_RCN FX(FL_CF | FL_OF, FL_CF, FL_OF)
#define FX_SH1 FX(0, FL_ARITH & ~FL_AF, FL_AF)
#define FX_SHN FX(FL_ARITH, FL_CF | FL_ZSP, FL_AF | FL_OF)
#define FX_MUL FX(0, FL_CF | FL_OF, FL_ZSP | FL_AF)
#define FX_DIV FX(0, 0, FL_ARITH)
#define FX_BT FX(0, FL_CF, FL_OF | FL_SF | FL_AF | FL_PF)
#define FX_BSF FX(0, FL_ZF, FL_ARITH & ~FL_ZF)
#define FX_TZCNT FX(0, FL_ZF | FL_CF, FL_OF | FL_SF | FL_AF | FL_PF)
#define FX_ANDN FX(0, FL_OF | FL_SF | FL_ZF | FL_CF, FL_AF | FL_PF)
#define FX_BEXTR FX(0, FL_OF | FL_ZF | FL_CF, FL_AF | FL_SF | FL_PF)
#define FX_ADOX FX(FL_OF, FL_OF, 0)
#define FX_CF FX(0, FL_CF, 0)
#define FX_CMC FX(FL_CF, FL_CF, 0)
#define FX_ZF FX(0, FL_ZF, 0)
#define FX_IF FX(0, FL_IF, 0)
#define FX_DF FX(0, FL_DF, 0)
#define FX_AAA FX(FL_AF, FL_AF | FL_CF, FL_OF | FL_ZSP)
#define FX_DAA FX(FL_AF | FL_CF, FL_AF | FL_CF | FL_ZSP, FL_OF)
#define FX_AAM FX(0, FL_ZSP, FL_OF | FL_AF | FL_CF)
#define FX_SAHF FX(0, FL_ARITH & ~FL_OF, 0)
#define FX_LAHF FX(FL_ARITH & ~FL_OF, 0, 0)
#define FX_PUSHF FX(FL_SYSTEM, 0, 0)
#define FX_SYSTEM FX(FL_SYSTEM, FL_SYSTEM, 0)
#define FX_STRING FX(FL_DF, 0, 0)
#define FX_STRCMP FX(FL_DF | FL_ARITH, FL_ARITH, 0) /* REP with a count of 0 leaves all */
#define FX_IF_O FX(FL_OF, 0, 0)
#define FX_IF_B FX(FL_CF, 0, 0)
#define FX_IF_E FX(FL_ZF, 0, 0)
#define FX_IF_BE FX(FL_CF | FL_ZF, 0, 0)
#define FX_IF_S FX(FL_SF, 0, 0)
#define FX_IF_P FX(FL_PF, 0, 0)
#define FX_IF_L FX(FL_SF | FL_OF, 0, 0)
#define FX_IF_LE FX(FL_ZF | FL_SF | FL_OF, 0, 0)

#define CLASS_DRV(x) .cls = CLS_DRV, .exec.drv = exec_##x
#define CLASS_SELF(x) .cls = CLS_SELF, .exec.self = exec_##x
#define CLASS_NATIVE .cls = CLS_NATIVE, .exec.self = native_exec
#define CLASS_UD .cls = CLS_UD

const struct op op_rows[] = {
#define ROW(map_, opcode_, pp_, ext_, lw_, name_, cls_, op0, op1, op2, op3, flags_, fx_, feature_) \
	{ .name = #name_, .map = map_, .opcode = opcode_, .pp = pp_, .ext = ext_, .lw = lw_,       \
	  CLASS_##cls_, .spec = { OT_##op0, OT_##op1, OT_##op2, OT_##op3 }, .flags = flags_,       \
	  FX_##fx_, .feature = FEAT_##feature_ },
#include "ops.def"
#undef ROW
};
const unsigned op_rows_n = ARRAY_LEN(op_rows);

const struct opd_spec opd_specs[OT_NR] = {
#define OPERAND(letters, form, size, sub) [OT_##letters] = { form, size, sub },
	OP_SPECS(OPERAND)
#undef OPERAND
};
