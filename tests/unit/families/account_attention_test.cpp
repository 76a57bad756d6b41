#include <gtest/gtest.h>

#include <filesystem>

#include "base/json.h"
#include "families/family.h"
#include "models/account.h"
#include "support/places.h"

// Published MoEs of the attention families. Every total is the one transformers 5.23 counts for the same config
// (from_config on the meta device, tied weights once), and rounds to what the model cards say: gpt-oss 20.9B and
// 116.8B, Phi-3.5-MoE 41.9B, Granite 3.0 1.3B and 3.3B. LongRoPE's factors in the config of Phi-3.5-MoE are
// placeholders: they hold no parameters. Of those called defaults the config is that of the family's class in
// transformers 5.24; what it counts of Laguna and AFMoE holds selection biases besides, which nobody trains.
namespace coterie::families {
namespace {

struct Published {
  const char* name;
  int64_t total, active;
};

class AccountAttention : public testing::TestWithParam<Published> {};

TEST_P(AccountAttention, IsWhatTheReferenceCounts) {
  const std::filesystem::path path = std::filesystem::path(tests::source_folder()) / "unit" / "families" / "configs" /
                                     (std::string(GetParam().name) + ".json");
  const ModelSpec spec = read_config(base::read_json(path), path.string(), true);
  const models::Account a = account(spec);
  EXPECT_EQ(a.total(), GetParam().total);
  EXPECT_EQ(a.total_active(), GetParam().active);
  EXPECT_TRUE(spec.warnings.empty()) << spec.warnings.front();
}

INSTANTIATE_TEST_SUITE_P(Configs, AccountAttention,
                         testing::Values(Published{"gpt-oss-20b", 20'914'757'184, 4'187'440'704},
                                         Published{"gpt-oss-120b", 116'829'156'672, 5'711'982'912},
                                         Published{"phi-3.5-moe", 41'873'153'344, 6'640'999'744},
                                         Published{"granite-3.0-1b-a400m", 1'334'628'352, 428'658'688},
                                         Published{"granite-3.0-3b-a800m", 3'298'793'472, 882'874'368},
                                         Published{"hy_v3-defaults", 295'033'528'320, 20'675'715'072},
                                         Published{"laguna-defaults", 33'189'975'808 - 9'984, 2'764'494'592 - 9'984},
                                         Published{"afmoe-defaults", 19'232'600'000 - 1'984, 3'678'547'904 - 1'984},
                                         Published{"granitemoe_swa-defaults", 37'039'117'312, 11'067'986'944},
                                         Published{"sarvam_moe-defaults", 32'152'648'064, 4'520'573'312}),
                         [](const auto& each) {
                           std::string name = each.param.name;
                           for (char& c : name)
                             if (c == '-' || c == '.') c = '_';
                           return name;
                         });

}  // namespace
}  // namespace coterie::families
