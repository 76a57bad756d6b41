#pragma once

#include "families/family.h"

// Every family, each in a file of its own beside this one. family.cpp lists them.
namespace coterie::families {

extern const Family kBailingMoeV2, kBailingMoe;                // bailing_moe_v2.cpp
extern const Family kCoterie;                                  // coterie.cpp
extern const Family kDbrx;                                     // dbrx.cpp
extern const Family kDeepseekV2, kDeepseekV3;                  // deepseek.cpp
extern const Family kDeepseekV32, kGlmMoeDsa;                  // deepseek_v32.cpp
extern const Family kDots1;                                    // dots1.cpp
extern const Family kErnie45Moe;                               // ernie4_5_moe.cpp
extern const Family kExaoneMoe;                                // exaone_moe.cpp
extern const Family kFlexOlmo;                                 // flex_olmo.cpp
extern const Family kGemma2, kGemma3;                          // gemma.cpp
extern const Family kGemma4;                                   // gemma4.cpp
extern const Family kGlm4Moe;                                  // glm4_moe.cpp
extern const Family kGlm4MoeLite;                              // glm4_moe_lite.cpp
extern const Family kGptOss;                                   // gpt_oss.cpp
extern const Family kGranite, kGraniteMoe, kGraniteMoeShared;  // granite.cpp
extern const Family kGraniteMoeHybrid;                         // granitemoehybrid.cpp
extern const Family kGraniteMoeSwa;                            // granitemoe_swa.cpp
extern const Family kHunyuanV1Moe;                             // hunyuan_v1_moe.cpp
extern const Family kHyV3;                                     // hy_v3.cpp
extern const Family kJamba;                                    // jamba.cpp
extern const Family kJetMoe;                                   // jetmoe.cpp
extern const Family kKimiK2;                                   // kimi_k2.cpp
extern const Family kLlama, kMistral;                          // llama.cpp
extern const Family kQwen2, kQwen3;                            // qwen.cpp
extern const Family kMamba, kFalconMamba;                      // mamba.cpp
extern const Family kMamba2;                                   // mamba2.cpp
extern const Family kLlama4;                                   // llama4.cpp
extern const Family kLongcatFlash;                             // longcat_flash.cpp
extern const Family kMellum;                                   // mellum.cpp
extern const Family kMiMoV2Flash;                              // mimo_v2_flash.cpp
extern const Family kMiniMax;                                  // minimax.cpp
extern const Family kMiniMaxM2;                                // minimax_m2.cpp
extern const Family kMixtral;                                  // mixtral.cpp
extern const Family kOlmo2;                                    // olmo2.cpp
extern const Family kOlmoe;                                    // olmoe.cpp
extern const Family kPhi3;                                     // phi3.cpp
extern const Family kPhimoe;                                   // phimoe.cpp
extern const Family kQwen2Moe, kQwen3Moe;                      // qwen_moe.cpp
extern const Family kQwen3VlMoe, kQwen3OmniMoe;                // qwen3_vl_moe.cpp
extern const Family kSarvamMoe, kSarvamMla;                    // sarvam.cpp
extern const Family kSolarOpen;                                // solar_open.cpp
extern const Family kKimiLinear;                               // kimi_linear.cpp
extern const Family kBailingHybrid;                            // bailing_hybrid.cpp
extern const Family kLfm2, kLfm2Moe;                           // lfm2.cpp
extern const Family kNemotronH, kNemotronHDense;               // nemotron_h.cpp
extern const Family kStep3p5;                                  // step3p5.cpp
extern const Family kAfmoe;                                    // afmoe.cpp
extern const Family kLaguna;                                   // laguna.cpp
extern const Family kQwen3Next, kQwen35Moe, kQwen35;           // qwen3_next.cpp
extern const Family kZamba;                                    // zamba.cpp
extern const Family kZamba2;                                   // zamba2.cpp

}  // namespace coterie::families
